"""Handlers of options.proto: written once by pyproc-gen, yours from here on."""

from pyproc_worker import Code, Context, Error
from options_pyproc import ChosenHandler, Reply, Request, serve


class Chosen(ChosenHandler):
    """Service golden.options.Chosen.

    The first line of a comment.

    A second paragraph, with */ and /* and \"quotes\" and \\ in it.
    """

    def timed(self, request: Request, context: Context) -> Reply:
        """Rpc Timed.

        Takes half a second.
        """
        raise Error(Code.UNIMPLEMENTED, "Chosen.timed is still to be written")

    def named(self, request: Request, context: Context) -> Reply:
        """Rpc Named."""
        raise Error(Code.UNIMPLEMENTED, "Chosen.named is still to be written")

    def again(self, request: Request, context: Context) -> Reply:
        """Rpc Again.

        Made again where that does no harm.
        """
        raise Error(Code.UNIMPLEMENTED, "Chosen.again is still to be written")

    def defaults(self, request: Request, context: Context) -> Reply:
        """Rpc Defaults."""
        raise Error(Code.UNIMPLEMENTED, "Chosen.defaults is still to be written")

    def slow(self, request: Request, context: Context) -> Reply:
        """Rpc Slow."""
        raise Error(Code.UNIMPLEMENTED, "Chosen.slow is still to be written")

    def run(self, request: Request, context: Context) -> Reply:
        """Rpc run.

        Both a name that is taken
        and a block comment.
        """
        raise Error(Code.UNIMPLEMENTED, "Chosen.run is still to be written")


if __name__ == "__main__":
    serve(Chosen())
