"""What a worker serves: typed handlers and exposed functions, and their table for the extension and the hello."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from . import _required, _signatures

# What the extension passes to a handler besides the request; as METHOD_* in src/methods.h.
CONTEXT = 1
CONTEXT_KEYWORD = 2
EVENT_KEYWORD = 4
ASYNC = 8
SENDS = 16
RECEIVES = 32
COMPLETE = 64

KINDS = {"unary": 0, "server_stream": SENDS, "client_stream": RECEIVES, "bidi": SENDS | RECEIVES}

Row = tuple[str, Any, "str | None", Any, Any, int]
Shape = tuple[tuple[int, str, str, str], ...]
Function = TypeVar("Function", bound=Callable[..., Any])


class Method(NamedTuple):
    """One rpc of a service, as pyproc-gen writes it.

    ``name`` is ``package.Service/Rpc``, ``python_name`` the handler's method, ``request`` and ``reply`` are the message
    classes, ``kind`` is ``unary``, ``server_stream``, ``client_stream`` or ``bidi``.
    """

    name: str
    python_name: str
    request: Any
    reply: Any
    kind: str
    fingerprint: str
    timeout_ms: int = 0
    idempotent: bool = False


class Service(NamedTuple):
    """A service with its methods, and the shapes of the messages that they reach: (number, label, type, name)."""

    name: str
    methods: tuple[Method, ...]
    messages: Mapping[str, Shape] = MappingProxyType({})


class Handler:
    """Base of the handler classes that pyproc-gen writes: such a class has its :class:`Service` as an attribute."""


exposed: dict[str, Callable[..., Any]] = {}


def expose(function: Function) -> Function:
    """Serves a function under its own name to callers of ``pyproc_call_json``: JSON values in and out.

    The function gets the request's body; a parameter ``cancel_event`` gets a ``threading.Event`` that is set when the
    call is cancelled, a parameter ``context`` without default the :class:`Context`. It may be ``async``. A later
    function of the same name replaces an earlier one.
    """
    _refuse_generator(function, function.__name__)
    exposed[function.__name__] = function
    return function


def _refuse_generator(function: Any, name: str) -> None:
    if _signatures.is_generator(function) or _signatures.is_async_generator(function):
        raise TypeError(f"{name} is a generator, but it is to give one reply: return that instead of yielding it")


def _check_shape(function: Any, name: str, kind: str) -> int:
    """The flags of a typed handler; TypeError where it cannot be one of its kind.

    A plain function is taken for a stream too, as a decorator may have wrapped the generator; what it returns is looked
    at when it is called.
    """
    if not KINDS[kind] & SENDS:
        _refuse_generator(function, name)
        return KINDS[kind] | _asyncness(function)
    if _signatures.is_coroutine(function):
        raise TypeError(f"{name} answers with a stream of messages ({kind}): it must be a generator, or, with `async "
                        "def`, an asynchronous generator: yield the messages instead of returning them")
    is_async = any(map(_signatures.is_async_generator, (function, _signatures.unwrap(function))))
    return KINDS[kind] | (ASYNC if is_async else 0)


def _asyncness(function: Any) -> int:
    return ASYNC if _signatures.is_coroutine(function) else 0


def _keywords(function: Any) -> int:
    event, context = _signatures.takes(function)
    return _asyncness(function) | (EVENT_KEYWORD if event else 0) | (CONTEXT_KEYWORD if context else 0)


def _services(handler: object) -> list[tuple[type, Service]]:
    if isinstance(handler, type):
        raise TypeError(f"serve() takes handlers, not classes: write serve({handler.__name__}())")
    found = [(owner, value) for owner in type(handler).__mro__ for value in vars(owner).values()
             if isinstance(value, Service)]
    if not found:
        raise TypeError(f"{type(handler).__name__} is no handler of a service: derive it from the class that "
                        "pyproc-gen wrote for the service, such as PredictorHandler")
    return found


def _typed_row(handler: object, owner: type, service: Service, method: Method, complete: set[str]) -> Row:
    name = method.name if "/" in method.name else f"{service.name}/{method.name}"
    kind = type(handler)
    missing = None
    if method.kind not in KINDS:
        missing = f"{name} is of the kind {method.kind!r}, which this version of pyproc_worker does not serve"
    elif getattr(kind, method.python_name, None) in (None, vars(owner).get(method.python_name)):
        argument = "requests" if KINDS[method.kind] & RECEIVES else "request"
        missing = (f"{name} is not implemented: add `def {method.python_name}(self, {argument}, context)` to the class "
                   f"{kind.__qualname__} of {kind.__module__}")
    if missing is not None:
        return name, None, missing, method.request, method.reply, 0
    function = getattr(handler, method.python_name)
    if not callable(function):
        raise TypeError(f"{kind.__qualname__}.{method.python_name} is {function!r}: it must be a method that takes a "
                        "request and a context")
    flags = CONTEXT | _check_shape(function, f"{kind.__qualname__}.{method.python_name}", method.kind)
    if not _required.has_required(method.reply.DESCRIPTOR, complete):
        flags |= COMPLETE
    return name, function, None, method.request, method.reply, flags


class Table:
    """All methods of a worker, in the order of its hello."""

    def __init__(self, handlers: tuple[object, ...]) -> None:
        self.rows: list[Row] = []
        self.hello: list[dict[str, Any]] = []
        self.messages: dict[str, Shape] = {}
        names: set[str] = set()
        self._complete: set[str] = set()  # messages that can lack no required field
        for handler in handlers:
            for owner, service in _services(handler):
                self.messages.update(service.messages)
                for method in service.methods:
                    self._add_typed(handler, owner, service, method, names)
        for name, function in exposed.items():
            self._add((name, function, None, None, None, _keywords(function)), {"kind": "unary"})

    def _add(self, row: Row, facts: dict[str, Any]) -> None:
        self.rows.append(row)
        self.hello.append({"name": row[0], **facts, **({"async": True} if row[5] & ASYNC else {})})

    @property
    def has_async(self) -> bool:
        """Whether an event loop is needed."""
        return any(row[5] & ASYNC for row in self.rows)

    @property
    def has_stream_threads(self) -> bool:
        """Whether there are plain handlers that have a thread each."""
        return any(row[5] & RECEIVES and not row[5] & ASYNC for row in self.rows)

    def _add_typed(self, handler: object, owner: type, service: Service, method: Method, names: set[str]) -> None:
        row = _typed_row(handler, owner, service, method, self._complete)
        if row[0] in names:
            raise ValueError(f"{row[0]} has two handlers: serve() takes one handler for each service")
        names.add(row[0])
        self._add(row, {"kind": method.kind, "request": method.request.DESCRIPTOR.full_name,
                        "reply": method.reply.DESCRIPTOR.full_name, "fingerprint": method.fingerprint})
