"""A worker with shared memory that lies there; the argument says how.

A file named by E2E_ONCE makes it good from the second start on.
"""
import array
import json
import mmap
import os
import select
import socket
import struct
import sys
import time
from typing import Callable, Dict

import hostile_worker as base

LANES = {"in": 512, "out": 1024}
TAIL, CLOSED, HEAD, SLEEPS, WAITS = 0, 4, 128, 256, 384


class Rings:
    """The worker's side of both rings, in pure Python, written from schema/wire.md."""

    def __init__(self, wire: socket.socket, memory: mmap.mmap, size: int) -> None:
        self.wire = wire
        self.memory = memory
        self.words = memoryview(memory).cast("I")  # stored at one go, which struct.pack_into() does not
        self.size = size
        self.head = self.tail = 0
        self.wakes = True

    def get(self, lane: str, word: int) -> int:
        """A word of a lane."""
        return int(self.words[(LANES[lane] + word) // 4])

    def set(self, lane: str, word: int, value: int) -> None:
        """Stores a word of a lane."""
        self.words[(LANES[lane] + word) // 4] = value & 0xFFFFFFFF

    def _told(self, lane: str, word: int) -> None:
        if self.wakes and self.get(lane, word):
            self.set(lane, word, 0)
            self.wire.send(b"!")

    def read(self, size: int) -> bytes:
        """So many bytes; the end of the process at the end of the connection."""
        data = b""
        while len(data) < size:
            count = min((self.get("in", TAIL) - self.head) & 0xFFFFFFFF, size - len(data))
            for _ in range(count):
                at = 4096 + self.head % self.size
                data += self.memory[at:at + 1]
                self.head = (self.head + 1) & 0xFFFFFFFF
            self.set("in", HEAD, self.head)
            self._told("in", WAITS)
            if count == 0:
                self._sleep()
        return data

    def _sleep(self) -> None:
        if self.get("in", CLOSED):
            os._exit(0)
        self.set("in", SLEEPS, 1)
        if select.select([self.wire], [], [], 0.001)[0] and not self.wire.recv(64):
            os._exit(0)

    def write(self, data: bytes) -> None:
        """Writes all, which must fit."""
        for byte in data:
            self.memory[4096 + self.size + self.tail % self.size] = byte
            self.tail = (self.tail + 1) & 0xFFFFFFFF
        self.set("out", TAIL, self.tail)
        self._told("out", SLEEPS)

    def next_request(self) -> int:
        """The id of the next request."""
        while True:
            payload = self.read(struct.unpack(">I", self.read(4))[0])
            if payload[0] == base.REQUEST:
                return int(base.HEADER.unpack_from(payload)[4])


def connect(wire: socket.socket) -> Rings:
    """Says hello, and maps what comes with the welcome."""
    hello = {"version": 1, "features": ["shm"], "methods": [{"name": "ping", "kind": "unary"}]}
    wire.sendall(base.frame(base.HELLO, base.JSON, 0, 0, json.dumps(hello).encode()))
    data, ancillary, _, _ = wire.recvmsg(65536, socket.CMSG_SPACE(16))
    fds = array.array("i")
    for _, _, content in ancillary:
        fds.frombytes(content[:len(content) - len(content) % fds.itemsize])
    size = json.loads(data[28:])["shm"]["ring_bytes"]
    return Rings(wire, mmap.mmap(fds[-1], 4096 + 2 * size), size)


def tail_at(offset: int) -> Callable[[Rings, int], None]:
    """Stores an index that is so far from the right one."""
    def lie(rings: Rings, call_id: int) -> None:
        rings.set("out", TAIL, rings.tail + offset)
        rings.wire.send(b"!")
    return lie


def head_at(head: int) -> Callable[[Rings, int], None]:
    """The same of what was read, for good; the host finds out once it has filled the ring."""
    def lie(rings: Rings, call_id: int) -> None:
        rings.write(base.good(call_id))
        while True:
            rings.set("in", HEAD, head)
            rings.set("in", WAITS, 0)
            rings.wire.send(b"!")
            time.sleep(0.001)
    return lie


def closed(rings: Rings, call_id: int) -> None:
    """Says that no more will come, in place of an answer."""
    rings.set("out", CLOSED, 7)
    rings.wire.send(b"!")
    time.sleep(600)


def flags(rings: Rings, call_id: int) -> None:
    """Wants to be woken without need, and wakes without need."""
    for lane in LANES:
        rings.set(lane, SLEEPS, 0xFFFFFFFF)
        rings.set(lane, WAITS, 0x80000000)
    for _ in range(1000):
        rings.wire.setblocking(False)
        try:
            rings.wire.send(b"!")
        except BlockingIOError:
            break
    rings.wire.setblocking(True)
    rings.write(base.good(call_id))


def silent(rings: Rings, call_id: int) -> None:
    """Answers, but does not wake the host, which sleeps."""
    rings.wakes = False
    time.sleep(0.05)
    rings.write(base.good(call_id))
    rings.wakes = True


def deaf(rings: Rings, call_id: int) -> None:
    """Reads no more."""
    rings.write(base.good(call_id))
    time.sleep(600)


def hang_up(rings: Rings, call_id: int) -> None:
    """Answers, and is gone."""
    rings.write(base.good(call_id))
    os._exit(0)


def keep_writing(rings: Rings, call_id: int) -> None:
    """Closes the socket, and goes on in the memory: nothing of that counts."""
    rings.wire.close()
    time.sleep(0.05)
    rings.wakes = False
    while True:
        rings.write(base.good(call_id ^ 4096))
        time.sleep(0.0001)


ANSWERS: Dict[str, Callable[[Rings, int], None]] = {
    "good": lambda rings, call_id: rings.write(base.good(call_id)),
    "tail_back": tail_at(-1), "tail_ahead": tail_at(1 << 20), "tail_far": tail_at(1 << 31),
    "head_back": head_at(-1), "head_ahead": head_at(1 << 20),
    "garbage": lambda rings, call_id: rings.write(b"\x00\x00\x00\x20" + b"\xee" * 32),
    "closed": closed, "flags": flags, "silent": silent, "deaf": deaf, "hang_up": hang_up, "keep_writing": keep_writing,
}


def main() -> None:
    """Answers requests until the host is gone."""
    wire = socket.socket(fileno=int(os.environ["PYPROC_WORKER_FD"]))
    wire.setblocking(True)
    rings = connect(wire)
    mode = sys.argv[1] if base.is_first() else "good"
    while True:
        ANSWERS[mode](rings, rings.next_request())
        mode = "good"


if __name__ == "__main__":
    main()
