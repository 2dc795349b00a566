"""Handlers of proto2.proto: written once by pyproc-gen, yours from here on."""

from pyproc_worker import Code, Context, Error
from proto2_pyproc import Defaults, Extended, OldHandler, serve


class Old(OldHandler):
    """Service golden.proto2.Old."""

    def get(self, request: Defaults, context: Context) -> Extended:
        """Rpc Get."""
        raise Error(Code.UNIMPLEMENTED, "Old.get is still to be written")


if __name__ == "__main__":
    serve(Old())
