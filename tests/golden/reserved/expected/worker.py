"""Handlers of reserved.proto, no_package.proto, pyproc.proto: written once by pyproc-gen, yours from here on."""

from typing import Iterator

from pyproc_worker import Code, Context, Error
from no_package_pyproc import EOF, FILE, PthreadHandler, SizeHandler, no_package_pb2_int, staticHandler, x_y
from pyproc_pyproc import CallHandler, Error as pyproc_pyproc_Error, Pool, Pool_Handler
from reserved_pyproc import (
    CallsFooHandler,
    CallsHandler,
    Context as reserved_pyproc_Context,
    Empty,
    Error as reserved_pyproc_Error,
    FooBar,
    Foo_Bar,
    INIT,
    Init,
    Kinds,
    Members,
    None_True,
    reserved_pb2_CallsHandler,
    reserved_pb2_Dunder,
    reserved_pb2_None,
    reserved_pb2_serve,
    reserved_pb2_sys,
    reserved_pb2_type,
    serve,
)


class Calls(CallsHandler):
    """Service class.None.Calls."""

    def foo(self, request: reserved_pb2_serve, context: Context) -> reserved_pyproc_Context:
        """Rpc Foo."""
        raise Error(Code.UNIMPLEMENTED, "Calls.foo is still to be written")

    def foo_(self, request: reserved_pyproc_Error, context: Context) -> reserved_pb2_sys:
        """Rpc foo."""
        raise Error(Code.UNIMPLEMENTED, "Calls.foo_ is still to be written")

    def foo_with(self, request: Foo_Bar, context: Context) -> FooBar:
        """Rpc FooWith."""
        raise Error(Code.UNIMPLEMENTED, "Calls.foo_with is still to be written")

    def foo__with(self, request: reserved_pb2_type, context: Context) -> reserved_pb2_Dunder:
        """Rpc Foo_With."""
        raise Error(Code.UNIMPLEMENTED, "Calls.foo__with is still to be written")

    def init(self, request: None_True, context: Context) -> reserved_pb2_None:
        """Rpc Init."""
        raise Error(Code.UNIMPLEMENTED, "Calls.init is still to be written")

    def service(self, request: reserved_pb2_CallsHandler, context: Context) -> Empty:
        """Rpc Service."""
        raise Error(Code.UNIMPLEMENTED, "Calls.service is still to be written")

    def def_(self, request: Members, context: Context) -> Kinds:
        """Rpc def."""
        raise Error(Code.UNIMPLEMENTED, "Calls.def_ is still to be written")

    def on_start_(self, request: Init, context: Context) -> INIT:
        """Rpc OnStart."""
        raise Error(Code.UNIMPLEMENTED, "Calls.on_start_ is still to be written")

    def init___(self, request: Init.init, context: Context) -> Init.Descriptor:
        """Rpc __init__."""
        raise Error(Code.UNIMPLEMENTED, "Calls.init___ is still to be written")


class CallsFoo(CallsFooHandler):
    """Service class.None.CallsFoo.

    `foo_bar` of Calls and `bar` of CallsFoo would be one name.
    """

    def with_(self, request: reserved_pb2_None, context: Context) -> reserved_pb2_None:
        """Rpc With."""
        raise Error(Code.UNIMPLEMENTED, "CallsFoo.with_ is still to be written")

    def submit(self, requests: Iterator[reserved_pb2_None], context: Context) -> reserved_pb2_None:
        """Rpc Submit."""
        raise Error(Code.UNIMPLEMENTED, "CallsFoo.submit is still to be written")


class static(staticHandler):
    """Service static."""

    def cast(self, request: FILE, context: Context) -> EOF:
        """Rpc cast."""
        raise Error(Code.UNIMPLEMENTED, "static.cast is still to be written")


class Pthread(PthreadHandler):
    """Service Pthread."""

    def create(self, request: no_package_pb2_int, context: Context) -> x_y:
        """Rpc Create."""
        raise Error(Code.UNIMPLEMENTED, "Pthread.create is still to be written")


class Size(SizeHandler):
    """Service Size."""

    def t(self, request: FILE, context: Context) -> FILE:
        """Rpc t."""
        raise Error(Code.UNIMPLEMENTED, "Size.t is still to be written")


class Pool_(Pool_Handler):
    """Service pyproc.Pool_."""

    def open(self, request: Pool, context: Context) -> pyproc_pyproc_Error:
        """Rpc Open."""
        raise Error(Code.UNIMPLEMENTED, "Pool_.open is still to be written")


class Call(CallHandler):
    """Service pyproc.Call."""

    def json(self, request: Pool, context: Context) -> pyproc_pyproc_Error:
        """Rpc Json."""
        raise Error(Code.UNIMPLEMENTED, "Call.json is still to be written")


if __name__ == "__main__":
    serve(Calls(), CallsFoo(), static(), Pthread(), Size(), Pool_(), Call())
