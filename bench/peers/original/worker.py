"""The worker of the Go library's pool, with the Go library's own package."""
import logging
from typing import Any, Dict

from pyproc_worker import expose, run_worker

logging.getLogger().setLevel(logging.WARNING)  # else each start is told, into the table


@expose
def predict(req: Dict[str, Any]) -> Dict[str, Any]:
    """Answers with twice the value."""
    return {"result": req["value"] * 2}


if __name__ == "__main__":
    run_worker()
