"""Error objects of the wire: what a failure says.

Imports nothing of the package, whose extension may be what failed.
"""

from __future__ import annotations

import json
import traceback
from types import TracebackType

TEXT_MAX = 64 << 10


def cut(text: str, most: int) -> str:
    """Makes a text fit for the wire: no NUL, no lone surrogates, and at most so many bytes, cut in the middle."""
    data = text.replace("\0", "\ufffd").encode("utf-8", "replace")
    if len(data) <= most:
        return data.decode("utf-8")
    mark = b"\n[... cut ...]\n"
    half = (most - len(mark)) // 2
    if half < 1:
        return data[:most].decode("utf-8", "ignore")
    return (data[:half].decode("utf-8", "ignore") + mark.decode("ascii")
            + data[-half:].decode("utf-8", "ignore"))


def type_name(exception: BaseException) -> str:
    """The class of an exception: bare for builtins and ``__main__``, else with its module."""
    kind = type(exception)
    if kind.__module__ in ("builtins", "__main__"):
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def message_of(exception: BaseException) -> str:
    """The text of an exception, also of one whose ``__str__`` fails."""
    try:
        return str(exception)
    except Exception as failure:
        return f"<the exception's __str__ raised {type(failure).__name__}>"


def traceback_text(exception: BaseException, start: TracebackType | None) -> str:
    """The traceback as Python prints it, beginning at ``start``."""
    try:
        return "".join(traceback.format_exception(type(exception), exception, start))
    except Exception as failure:
        return f"<the traceback cannot be printed: {type(failure).__name__}>"


def error_object(message: str, kind: str | None = None, trace: str | None = None, *, interrupted: bool = False,
                 room: int = 1 << 30) -> bytes:
    """The error object as JSON, in at most ``room`` bytes as far as that goes."""
    most = TEXT_MAX
    while True:
        members: dict[str, str | bool] = {"error": cut(message, most)}
        if kind is not None:
            members["type"] = cut(kind, most)
        if trace is not None:
            members["traceback"] = cut(trace, most)
        if interrupted:
            members["interrupted"] = True
        text = json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
        if len(text) <= room or most <= 16:
            return text
        most //= 2
