"""What plain functions say of themselves is what inspect says of them, and others are asked by inspect."""

from __future__ import annotations

import functools
import inspect
import subprocess
import sys
from typing import Any, Callable

import pytest

from pyproc_worker import _signatures
from support import environment

PARAMETERS = ("", "request", "request, context", "request, context=None", "request, /, context", "request, context, /",
              "request, *, context", "request, *, context=None", "context", "context, request", "*, context",
              "*args, context", "request, *context", "request, **context", "request, cancel_event",
              "request, cancel_event=None", "request, *, cancel_event=None, context", "request, context, other=1",
              "request, a=1, context=2, *, b, cancel_event", "*args, **kwargs", "self, request, context")
BODIES = {"def": "return 1", "async def": "return 1", "def (yields)": "yield 1", "async def (yields)": "yield 1"}


def make(parameters: str, kind: str = "def") -> Callable[..., Any]:
    """A function with these parameters."""
    scope: dict[str, Any] = {}
    exec(f"{kind.split(' (')[0]} made({parameters}):\n    {BODIES[kind]}", scope)
    made: Callable[..., Any] = scope["made"]
    return made


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """As a decorator does it."""
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)
    return wrapper


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_parameters(parameters: str) -> None:
    function = make(parameters)
    assert _signatures.takes(function) == _signatures.takes_by_inspection(function)
    assert _signatures.takes(wrapped(function)) == _signatures.takes_by_inspection(function)
    if parameters:
        owner = type("Owner", (), {"method": make("self, " + parameters if "self" not in parameters else parameters)})
        bound = owner().method
        assert _signatures.takes(bound) == _signatures.takes_by_inspection(bound)


def test_what_is_asked_for() -> None:
    assert _signatures.takes(make("request, cancel_event, context")) == (True, True)
    assert _signatures.takes(make("request, context=None")) == (False, False)
    assert _signatures.takes(functools.partial(make("request, context"), 1)) == (False, False)
    assert _signatures.takes(functools.partial(make("a, request, context"), 1)) == (False, True)
    assert _signatures.takes(print) == (False, False)
    assert _signatures.takes(dict.fromkeys) == (False, False)


@pytest.mark.parametrize("kind", BODIES)
def test_kinds(kind: str) -> None:
    for function in (make("request", kind), wrapped(make("request", kind)), functools.partial(make("request", kind)),
                     type("Owner", (), {"method": make("self", kind)})().method):
        assert _signatures.is_coroutine(function) == inspect.iscoroutinefunction(function)
        assert _signatures.is_generator(function) == inspect.isgeneratorfunction(function)
        assert _signatures.is_async_generator(function) == inspect.isasyncgenfunction(function)
        assert _signatures.unwrap(function) == inspect.unwrap(function)


def test_workers_need_no_inspect() -> None:
    code = ("import sys\nbefore = set(sys.modules)\nimport pyproc_worker\nfrom pyproc_worker._methods import Table\n"
            "@pyproc_worker.expose\ndef f(request, context): pass\nassert Table(()).rows\n"
            "spared = {'inspect', 'dataclasses', 'socket', 'platform', 'urllib.parse'}\n"
            "sys.exit(' '.join(spared & (set(sys.modules) - before)) or 0)")
    done = subprocess.run([sys.executable, "-c", code], env=environment(), check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
