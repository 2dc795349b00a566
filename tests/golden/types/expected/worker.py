"""Handlers of types.proto: written once by pyproc-gen, yours from here on."""

from pyproc_worker import Code, Context, Error
from types_pyproc import (
    Empty as types_pyproc_Empty,
    EmptyHandler,
    Maps,
    Nothing,
    Oneofs,
    Optionals,
    Outer,
    Repeated,
    Scalars,
    Struct,
    TypesHandler,
    WellKnown,
    serve,
)


class Types(TypesHandler):
    """Service golden.types.Types."""

    def scalar(self, request: Scalars, context: Context) -> Optionals:
        """Rpc Scalar."""
        raise Error(Code.UNIMPLEMENTED, "Types.scalar is still to be written")

    def repeat(self, request: Repeated, context: Context) -> Maps:
        """Rpc Repeat."""
        raise Error(Code.UNIMPLEMENTED, "Types.repeat is still to be written")

    def choose(self, request: Oneofs, context: Context) -> WellKnown:
        """Rpc Choose."""
        raise Error(Code.UNIMPLEMENTED, "Types.choose is still to be written")

    def nest(self, request: Outer.Middle.Inner, context: Context) -> Outer.Middle:
        """Rpc Nest."""
        raise Error(Code.UNIMPLEMENTED, "Types.nest is still to be written")

    def forget(self, request: Struct, context: Context) -> types_pyproc_Empty:
        """Rpc Forget."""
        raise Error(Code.UNIMPLEMENTED, "Types.forget is still to be written")

    def idle(self, request: Nothing, context: Context) -> Nothing:
        """Rpc Idle."""
        raise Error(Code.UNIMPLEMENTED, "Types.idle is still to be written")


class Empty(EmptyHandler):
    """Service golden.types.Empty."""


if __name__ == "__main__":
    serve(Types(), Empty())
