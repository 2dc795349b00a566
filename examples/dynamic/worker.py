"""Functions without a schema: plain JSON values in and out."""
from typing import Any, Dict

from pyproc_worker import expose, run_worker


@expose
def predict(request: Dict[str, Any]) -> Dict[str, Any]:
    """Doubles request["value"]."""
    return {"result": request["value"] * 2}


@expose
def word_count(request: Dict[str, Any]) -> Dict[str, int]:
    """Counts the words of request["text"]."""
    counts: Dict[str, int] = {}
    for word in request["text"].lower().split():
        counts[word] = counts.get(word, 0) + 1
    return counts


if __name__ == "__main__":
    run_worker()
