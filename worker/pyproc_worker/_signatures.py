"""What a handler is, and which keywords it takes.

Nearly all handlers are plain functions, whose code objects say it all: the others need inspect, whose import would cost
every worker a tenth of its start.
"""

from __future__ import annotations

from types import FunctionType, MethodType
from typing import Any

# Of code.co_flags; the names are inspect's.
CO_VARARGS = 0x04
CO_GENERATOR = 0x20
CO_COROUTINE = 0x80
CO_ASYNC_GENERATOR = 0x200


def _plain(function: Any) -> FunctionType | None:
    """The function, or the method's, where nothing has wrapped or marked it; else None."""
    inner = function.__func__ if type(function) is MethodType else function
    return inner if type(inner) is FunctionType and not inner.__dict__ else None


def _is(function: Any, flag: int, question: str) -> bool:
    plain = _plain(function)
    if plain is not None:
        return bool(plain.__code__.co_flags & flag)
    import inspect
    return bool(getattr(inspect, question)(function))


def is_coroutine(function: Any) -> bool:
    """Whether it is an ``async def`` that returns."""
    return _is(function, CO_COROUTINE, "iscoroutinefunction")


def is_generator(function: Any) -> bool:
    """Whether it is a plain generator."""
    return _is(function, CO_GENERATOR, "isgeneratorfunction")


def is_async_generator(function: Any) -> bool:
    """Whether it is an ``async def`` that yields."""
    return _is(function, CO_ASYNC_GENERATOR, "isasyncgenfunction")


def unwrap(function: Any) -> Any:
    """What decorators that use functools.wraps() have wrapped."""
    if _plain(function) is not None:
        return function
    import inspect
    return inspect.unwrap(function)


def takes(function: Any) -> tuple[bool, bool]:
    """Whether it has a parameter ``cancel_event``, and whether a ``context`` without default that is not the first."""
    plain = _plain(function)
    if plain is None or plain.__code__.co_flags & CO_VARARGS:
        return takes_by_inspection(function)
    return _takes_by_code(plain, 1 if type(function) is MethodType else 0)


def _takes_by_code(function: FunctionType, first: int) -> tuple[bool, bool]:
    code = function.__code__
    names = code.co_varnames[:code.co_argcount + code.co_kwonlyargcount]
    required = names[code.co_posonlyargcount:code.co_argcount - len(function.__defaults__ or ())]
    required += tuple(name for name in names[code.co_argcount:] if name not in (function.__kwdefaults__ or {}))
    return "cancel_event" in names[first:], "context" in required and "context" not in names[:first + 1]


def takes_by_inspection(function: Any) -> tuple[bool, bool]:
    """The same, for whatever can be called."""
    import inspect
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some builtins have none
        return False, False
    context = parameters.get("context")
    return "cancel_event" in parameters, (
        context is not None and context.default is inspect.Parameter.empty
        and context.kind in (context.POSITIONAL_OR_KEYWORD, context.KEYWORD_ONLY)
        and next(iter(parameters)) != "context")
