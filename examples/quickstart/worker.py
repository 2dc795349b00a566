"""The Python half of the quickstart: doubles a number."""
from quickstart_pyproc import PredictorHandler, PredictReply, PredictRequest, serve


class Predictor(PredictorHandler):
    """Handles quickstart.Predictor."""

    def predict(self, request: PredictRequest, context) -> PredictReply:
        """Answers with twice the value."""
        return PredictReply(result=request.value * 2)


if __name__ == "__main__":
    serve(Predictor())
