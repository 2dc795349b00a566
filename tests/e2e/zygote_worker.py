"""Exposes functions that tell how this worker came to be, and some that misbehave.

Nothing is imported at the top that the library does not need itself: unless it is preloaded, a forked worker has all
else in memory of its own.
"""
import gc
import importlib
import os
import signal
import sys
import threading
import time
from typing import Any

FOUND = [] if "E2E_IMPORT" in os.environ else sorted(sys.modules)  # to look at them all costs a worker memory

from pyproc_worker import Context, expose, on_start, run_worker  # noqa: E402

for module in os.environ.get("E2E_IMPORT", "").split(","):
    if module:
        importlib.import_module(module)

HOOKS: list[str] = []
on_start(lambda: HOOKS.append("start"))


@expose
def ping(body: Any) -> Any:
    """The request."""
    return body


@expose
def pid(body: Any) -> Any:
    """Of this worker."""
    return os.getpid()


@expose
def parent(body: Any) -> Any:
    """The process that started it."""
    return os.getppid()


@expose
def about(body: Any, context: Context) -> Any:
    """What it was given."""
    return {"args": sys.argv[1:], "env": os.environ.get("E2E_VARIABLE"), "cwd": os.getcwd(), "name": __name__,
            "index": [context.worker_index, int(os.environ["PYPROC_WORKER_INDEX"])], "hooks": HOOKS,
            "leads": os.getpgid(0) == os.getpid() == threading.main_thread().native_id,
            "left": sorted(name for name in os.environ if name.startswith("PYPROC_") or "NUM_THREADS" in name),
            "stdin": os.readlink("/proc/self/fd/0")}


@expose
def frozen(body: Any) -> Any:
    """Whether the garbage collector leaves what was there before this worker alone."""
    return gc.get_freeze_count() > 0


@expose
def found(body: Any) -> Any:
    """Whether that module was there before the script imported anything beyond the standard library."""
    return body in FOUND


@expose
def descriptors(body: Any) -> Any:
    """How many are open."""
    return len([fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")])


@expose
def constant(body: Any) -> Any:
    """Of a module."""
    return importlib.import_module(body).CONSTANT


@expose
def seeds(body: Any) -> Any:
    """What must differ from worker to worker."""
    import random
    import ssl
    import uuid
    from multiprocessing import process
    numpy: Any = sys.modules.get("numpy")
    found = [random.random(), ssl.RAND_bytes(8).hex(), str(uuid.uuid4()), process.current_process().authkey.hex()]
    return found + ([float(numpy.random.rand())] if numpy is not None else [])


@expose
def threads(body: Any) -> Any:
    """How many this process has."""
    return len(os.listdir("/proc/self/task"))


@expose
def multiply(body: Any) -> Any:
    """Has the pool of numpy's library work, and tells how many threads there were before and are now."""
    import numpy
    before = threads(body)
    square = numpy.ones((body, body))
    return [before, float((square @ square)[0, 0]), threads(body)]


@expose
def say(body: Any) -> Any:
    """Prints to both."""
    print(body)
    print(body, file=sys.stderr)


@expose
def die(body: Any) -> Any:
    """Ends the process behind Python's back."""
    print("last words")
    os._exit(body)


@expose
def crash(body: Any) -> Any:
    """Dies of a signal."""
    os.kill(os.getpid(), getattr(signal, body))
    time.sleep(600)


@expose
def sleep(body: Any) -> Any:
    """Sleeps for so many milliseconds."""
    time.sleep(body / 1000)


@expose
def child(body: Any) -> Any:
    """Leaves a child behind, in the worker's group."""
    found = os.fork()
    if found == 0:
        time.sleep(600)
        os._exit(0)
    return found


if __name__ == "__main__":
    run_worker()
