"""Handlers of acme/a/service-one.proto, acme/b/service.proto: written once by pyproc-gen, yours from here on."""

from pyproc_worker import Code, Context, Error
from acme.a.service_one_pyproc import Reply, Request, WorkerHandler, serve
from acme.b.service_pyproc import (
    Request as acme_b_service_pyproc_Request,
    WorkerHandler as acme_b_service_pyproc_WorkerHandler,
)


class Worker(WorkerHandler):
    """Service acme.a.Worker."""

    def run(self, request: Request, context: Context) -> Reply:
        """Rpc Run."""
        raise Error(Code.UNIMPLEMENTED, "Worker.run is still to be written")


class acme_b_Worker(acme_b_service_pyproc_WorkerHandler):
    """Service acme.b.Worker."""

    def run(self, request: acme_b_service_pyproc_Request, context: Context) -> Reply:
        """Rpc Run."""
        raise Error(Code.UNIMPLEMENTED, "acme_b_Worker.run is still to be written")


if __name__ == "__main__":
    serve(Worker(), acme_b_Worker())
