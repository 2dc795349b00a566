"""Exposes functions that hang, or end the process for good. With the argument ``shared`` two of them run at once."""
import collections
import ctypes
import itertools
import os
import sys
import threading
import time
from typing import Any

from pyproc_worker import expose, serve


@expose
def ping(body: Any) -> Any:
    """The request."""
    return body


@expose
def pid(body: Any) -> Any:
    """Of this worker."""
    return os.getpid()


@expose
def sleep(body: Any) -> Any:
    """Sleeps."""
    time.sleep(body["ms"] / 1000)
    return body


@expose
def size(body: Any) -> Any:
    """Of a text."""
    return len(body)


@expose
def stuck(body: Any) -> Any:
    """Sleeps in C with the GIL held."""
    ctypes.PyDLL(None).usleep(body["ms"] * 1000)
    return body["ms"]


@expose
def spin(body: Any) -> Any:
    """A loop in C that looks at no signals and keeps the GIL."""
    collections.deque(itertools.repeat(0), maxlen=0)


def hog() -> None:
    """Takes the GIL, and never gives it back."""
    time.sleep(0.1)
    ctypes.PyDLL(None).sleep(600)


@expose
def begin_hog(body: Any) -> Any:
    """Returns, and soon no handler can begin any more."""
    threading.Thread(target=hog, daemon=True).start()
    return body


@expose
def segfault(body: Any) -> Any:
    """Reads what is not there."""
    print("last words", flush=True)
    ctypes.string_at(8)


@expose
def abort(body: Any) -> Any:
    """As C code does that has found a contradiction."""
    os.abort()


if __name__ == "__main__":
    serve(threads=2 if "shared" in sys.argv else 1)
