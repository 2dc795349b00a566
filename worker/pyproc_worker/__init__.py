"""The Python side of pyproc: functions and typed handlers that a C program calls.

A worker for a schema fills in the handler class that ``pyproc-gen`` wrote::

    from quickstart_pyproc import PredictorHandler, PredictReply, serve

    class Predictor(PredictorHandler):
        def predict(self, request, context):
            return PredictReply(result=request.value * 2)

    if __name__ == "__main__":
        serve(Predictor())

One without a schema exposes functions, which get and return JSON values::

    from pyproc_worker import expose, run_worker

    @expose
    def predict(request):
        return {"result": request["value"] * 2}

    if __name__ == "__main__":
        run_worker()
"""

from __future__ import annotations

from ._version import __version__

try:
    from ._ext import Context
except ImportError as error:
    from ._missing import missing_extension
    raise missing_extension(error) from error

from ._codecs import register_codec
from ._codes import Cancelled, Code, Error
from ._methods import Handler, Method, Service, expose
from ._requests import Requests
from ._server import on_start, on_stop, run_worker, serve

__all__ = ["Cancelled", "Code", "Context", "Error", "Handler", "Method", "Requests", "Service", "__version__", "expose",
           "health", "on_start", "on_stop", "register_codec", "run_worker", "serve"]


@expose
def health(_request: object) -> dict[str, object]:
    """Tells that the worker is there; every worker has it."""
    import os
    return {"status": "healthy", "pid": os.getpid()}
