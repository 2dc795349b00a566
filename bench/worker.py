"""The handlers that are measured: as little Python as there can be."""
import time
from typing import Any, Dict

from bench_pyproc import PredictorHandler, PredictReply, PredictRequest, serve
from pyproc_worker import Context, expose


class Predictor(PredictorHandler):
    """Handles bench.Predictor."""

    def predict(self, request: PredictRequest, context: Context) -> PredictReply:
        """Answers with twice the value."""
        return PredictReply(result=request.value * 2)


@expose
def predict(request: Dict[str, Any]) -> Dict[str, Any]:
    """Does the same without a schema."""
    return {"result": request["value"] * 2}


@expose
def sleep(request: Any) -> None:
    """Does not end by itself."""
    time.sleep(3600)


@expose
def spin(request: Any) -> None:
    """Nor does this."""
    while True:
        pass


if __name__ == "__main__":
    serve(Predictor())
