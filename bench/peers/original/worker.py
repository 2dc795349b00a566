"""The worker of the Go library's pool, with the Go library's own package."""
import logging
from typing import Any, Dict

logging.disable(logging.INFO)  # else each start is told, into the table
from pyproc_worker import expose, run_worker  # noqa: E402


@expose
def predict(req: Dict[str, Any]) -> Dict[str, Any]:
    """Answers with twice the value."""
    return {"result": req["value"] * 2}


if __name__ == "__main__":
    try:
        run_worker()
    except KeyboardInterrupt:  # how the pool ends it
        pass
