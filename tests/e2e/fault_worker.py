"""Exposes functions that misbehave, and some that tell what the worker was given."""
import atexit
import collections
import ctypes
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pyproc_worker import Code, Context, Error, expose, on_start, on_stop, run_worker


class Odd(Exception):
    """An exception of the script's own."""


def note(text: str) -> None:
    """Leaves a line where the test looks for it."""
    path = os.environ.get("E2E_NOTES")
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text + "\n")


@on_start
def started() -> None:
    """Runs before the worker is ready."""
    note("start")


@on_stop
def stopped() -> None:
    """Runs when the worker stops in order."""
    note("stop")


atexit.register(note, "atexit")


@expose
def ping(body: Any) -> Any:
    """The request."""
    return body


@expose
def note_once(body: Any) -> Any:
    """Leaves a line."""
    note(f"once {body}")
    return body


@expose
def pid(body: Any) -> Any:
    """Of this worker."""
    return os.getpid()


@expose
def fail(body: Any) -> Any:
    """Raises what it is told."""
    if body["type"] == "Odd":
        raise Odd(body["text"])
    if body["type"] == "Error":
        raise Error(Code.NOT_FOUND, body["text"])
    if body["type"] == "SystemExit":
        sys.exit(3)
    raise ValueError(body["text"])


@expose
def wrong(body: Any) -> Any:
    """What JSON cannot say."""
    return {1, 2}


@expose
def nan(body: Any) -> Any:
    """What JSON cannot say either."""
    return [float(body)]


@expose
def die(body: Any) -> Any:
    """Ends the process behind Python's back."""
    print("last words on stdout")
    print("last words on stderr", file=sys.stderr)
    os._exit(body["status"])


@expose
def die_every_other_time(body: Any) -> Any:
    """Ends the process every other time, over all processes that leave their notes in the same file."""
    note("call")
    with open(os.environ["E2E_NOTES"], encoding="utf-8") as file:
        calls = file.read().splitlines().count("call")
    if calls % 2 == 1:
        os._exit(9)
    return body


@expose
def crash(body: Any) -> Any:
    """Dies of a signal."""
    os.kill(os.getpid(), getattr(signal, body["signal"]))
    time.sleep(600)


@expose
def stop_self(body: Any) -> Any:
    """Stops the process, which nobody but the test or the pool brings back."""
    os.kill(os.getpid(), signal.SIGSTOP)
    return "continued"


@expose
def sleep(body: Any) -> Any:
    """Sleeps."""
    time.sleep(body["ms"] / 1000)
    return body


@expose
def hold(body: Any) -> Any:
    """Tells by a file that it has begun, and waits for another one, a minute at most."""
    Path(body["begun"]).touch()
    end = time.monotonic() + 60
    while not os.path.exists(body["until"]) and time.monotonic() < end:
        time.sleep(0.002)
    return body


@expose
def stay(body: Any, cancel_event: Any) -> Any:
    """Sleeps, and takes no notice of the event that it asked for."""
    time.sleep(body["ms"] / 1000)
    return body


@expose
def hang(body: Any) -> Any:
    """Neither looks at signals nor lets another thread run."""
    collections.deque(itertools.repeat(0), maxlen=0)


@expose
def deaf(body: Any) -> Any:
    """Like hang, but it ends after a while."""
    end = time.monotonic() + body["ms"] / 1000
    next(itertools.dropwhile(end.__gt__, iter(time.monotonic, None)))


@expose
def stuck(body: Any) -> Any:
    """Sleeps in C with the GIL held."""
    ctypes.PyDLL(None).sleep(body["s"])
    return body


@expose
def shout(body: Any) -> Any:
    """Prints many lines."""
    for number in range(body["lines"]):
        print("line", number, "x" * body["size"])
    return body["lines"]


@expose
def child(body: Any) -> Any:
    """Leaves a child behind that ignores the end of its parent."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid


@expose
def children(body: Any) -> Any:
    """Leaves so many children behind, that notice no SIGTERM."""
    pids = []
    for _ in range(body):
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                signal.pause()
        pids.append(pid)
    return pids


@expose
def clock(body: Any) -> Any:
    """The time of day here."""
    return int(time.time())


@expose
def given(body: Any) -> Any:
    """What the worker was started with."""
    return {"args": sys.argv[1:], "env": os.environ.get(str(body)), "cwd": str(Path.cwd()), "name": __name__}


@expose
def index(body: Any, context: Context) -> Any:
    """This worker's index in its pool, as told in two places."""
    return [context.worker_index, int(os.environ["PYPROC_WORKER_INDEX"])]


@expose
def descriptors(body: Any) -> Any:
    """What the open descriptors are."""
    links = ["/proc/self/fd/" + fd for fd in os.listdir("/proc/self/fd")]
    return [os.readlink(link) for link in links if os.path.lexists(link)]


if __name__ == "__main__":
    run_worker()
