"""Answers what it is asked; on request it spoils the memory that it shares with the host, under both, and ends."""
import ctypes
import os
import random
import threading
import time
from typing import Any

from pyproc_worker import expose, run_worker

begun = threading.Event()


@expose
def ping(body: Any) -> Any:
    """The request."""
    return body


@expose
def pid(body: Any) -> Any:
    """Of this worker."""
    return os.getpid()


def map_again(size: int) -> int:
    """Another mapping of the shared memory, which stays when the worker lets go of its own."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        spans = [[int(end, 16) for end in line.split()[0].split("-")] for line in maps if "memfd:pyproc" in line]
    start = next(low for low, high in spans if high - low == size)
    mremap = ctypes.CDLL(None).mremap
    mremap.restype = ctypes.c_size_t
    return int(mremap(ctypes.c_void_p(start), ctypes.c_size_t(0), ctypes.c_size_t(size), 1))


def spoil_memory(start: int, size: int, count: int) -> None:
    """Stores so many words in each direction of the shared memory, wherever both sides look, and ends the process."""
    ring_bytes = (size - 4096) // 2
    for _ in range(count):
        for lane in range(2):
            if random.randrange(8) == 0:
                at = 512 + lane * 512 + random.choice((0, 4, 128, 256, 384))
            else:
                at = 4096 + lane * ring_bytes + random.randrange(ring_bytes // 4) * 4
            ctypes.c_uint32.from_address(start + at).value = random.getrandbits(random.choice((1, 8, 32)))
        if random.randrange(8) == 0:
            time.sleep(0.001)
    os._exit(0)


@expose
def spoil(body: Any) -> Any:
    """Does that, in a thread, after the answer."""
    if not begun.is_set():
        begun.set()
        threading.Timer(0.005, spoil_memory, (map_again(body[0]), *body)).start()
    return None


if __name__ == "__main__":
    run_worker()
