"""Handlers of quickstart.proto: written once by pyproc-gen, yours from here on."""

from pyproc_worker import Code, Context, Error
from quickstart_pyproc import PredictReply, PredictRequest, PredictorHandler, serve


class Predictor(PredictorHandler):
    """Service quickstart.Predictor."""

    def predict(self, request: PredictRequest, context: Context) -> PredictReply:
        """Rpc Predict."""
        raise Error(Code.UNIMPLEMENTED, "Predictor.predict is still to be written")


if __name__ == "__main__":
    serve(Predictor())
