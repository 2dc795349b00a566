"""Doubles numbers; a negative one makes it sleep that many seconds first."""
import time

from quickstart_pyproc import PredictorHandler, PredictReply, PredictRequest, serve


class Predictor(PredictorHandler):
    """Handles quickstart.Predictor."""

    def predict(self, request: PredictRequest, context) -> PredictReply:
        """Answers with twice the value."""
        if request.value < 0:
            time.sleep(-request.value)
        return PredictReply(result=request.value * 2)


if __name__ == "__main__":
    serve(Predictor())
