"""The methods of a worker as its gRPC server needs them: with the kinds of all rpcs, streams too."""

from __future__ import annotations

import inspect
from typing import Any

from ._grpc_call import Entry
from ._methods import ASYNC, CONTEXT, Method, Service, Table, _services


def entries_of(table: Table, handlers: tuple[object, ...]) -> list[Entry]:
    """All of them, in the order of the hello."""
    streams = {_full_name(service, method): _stream(handler, owner, service, method) for handler in handlers
               for owner, service in _services(handler) for method in service.methods if method.kind != "unary"}
    found = []
    for name, function, missing, request, reply, flags in table.rows:
        unary = Entry(name, "unary", function, missing, request, reply, flags, bool(flags & ASYNC))
        found.append(streams.get(name, unary))
    return found


def _full_name(service: Service, method: Method) -> str:
    return method.name if "/" in method.name else f"{service.name}/{method.name}"


def _stream(handler: object, owner: type, service: Service, method: Method) -> Entry:
    name, kind = _full_name(service, method), type(handler)
    function: Any = getattr(handler, method.python_name, None)
    if function is None or getattr(kind, method.python_name, None) is vars(owner).get(method.python_name):
        missing = (f"{name} is not implemented: add `def {method.python_name}(self, "
                   f"{'request' if method.kind == 'server_stream' else 'requests'}, context)` to the class "
                   f"{kind.__qualname__} of {kind.__module__}")
        return Entry(name, method.kind, None, missing, method.request, method.reply, 0, False)
    is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    return Entry(name, method.kind, function, None, method.request, method.reply, CONTEXT, is_async)
