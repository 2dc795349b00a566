"""One name for JSON values, one method for messages: both can be called with JSON."""
import os
import sys
from typing import Any, Dict

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "gen"))

from quickstart_pyproc import PredictorHandler, PredictReply, PredictRequest, serve  # noqa: E402

from pyproc_worker import expose  # noqa: E402


@expose
def predict(request: Dict[str, Any]) -> Dict[str, Any]:
    """Doubles request["value"]."""
    return {"result": request["value"] * 2}


class Predictor(PredictorHandler):
    """Handles quickstart.Predictor."""

    def predict(self, request: PredictRequest, context) -> PredictReply:
        """Answers with twice the value."""
        return PredictReply(result=request.value * 2)


if __name__ == "__main__":
    serve(Predictor())
