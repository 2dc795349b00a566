"""A worker of the Go library's kind, written from schema/wire.md: JSON envelopes on PYPROC_SOCKET_PATH, no handshake.

It takes one connection at a time, runs one call at a time, and goes back to listening when the connection ends. The
first argument says how it starts; methods whose names say so break the rules.
"""
import json
import os
import signal
import socket
import stat
import struct
import sys
import time
from typing import Any, Callable, Dict, NoReturn, Optional

PATH = os.environ["PYPROC_SOCKET_PATH"]
MODE = sys.argv[1] if len(sys.argv) > 1 else "good"


def frame(payload: bytes) -> bytes:
    """The payload with its length."""
    return struct.pack(">I", len(payload)) + payload


def answer(call_id: int, **members: Any) -> bytes:
    """A reply."""
    return frame(json.dumps({"id": call_id, **members}).encode())


def read(wire: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer at the end of the connection."""
    data = b""
    while len(data) < size:
        chunk = wire.recv(size - len(data))
        if not chunk:
            break
        data += chunk
    return data


def fail(body: Any) -> NoReturn:
    """Raises."""
    raise ValueError(body)


def sleep(body: float) -> bool:
    """Waits so many milliseconds."""
    time.sleep(body / 1000)
    return True


def die(body: int) -> NoReturn:
    """Ends by a signal, after a last line."""
    print("last words", file=sys.stderr, flush=True)
    os.kill(os.getpid(), body)
    raise AssertionError


def leave(body: int) -> NoReturn:
    """Ends with that exit status."""
    os._exit(body)


def where(_body: Any) -> Dict[str, Any]:
    """What is left of the path by now, and what it was like before."""
    return {"path": PATH, "left": os.path.exists(os.path.dirname(PATH)), **SEEN}


def surroundings(_body: Any) -> Dict[str, Any]:
    """Arguments and environment of ours, and the open descriptors."""
    names = sorted(name for name in os.environ if name.startswith("PYPROC_") and "TEST" not in name)
    return {"args": sys.argv[1:], "names": names, "index": os.environ["PYPROC_WORKER_INDEX"],
            "fds": len(os.listdir("/proc/self/fd"))}


def health(_body: Any) -> Dict[str, Any]:
    """As every worker has it."""
    if MODE == "sick":
        raise RuntimeError("the model is missing")
    return {"status": "healthy", "pid": os.getpid()}


METHODS: Dict[str, Callable[[Any], Any]] = {
    "health": health, "echo": lambda body: body, "double": lambda body: {"result": body["value"] * 2}, "fail": fail,
    "sleep": sleep, "die": die, "leave": leave, "where": where, "surroundings": surroundings,
    "pid": lambda _body: os.getpid(), "set": lambda _body: {1, 2}, "package.Service/Rpc": lambda body: body,
    "quickstart.Predictor/Predict": lambda body: {"result": body.get("value", 0) * 2},
}

# What a method of that name sends in place of a reply.
BROKEN: Dict[str, Callable[[int], bytes]] = {
    "garbage": lambda call_id: frame(b"\xee" * 32),
    "empty": lambda call_id: frame(b""),
    "huge": lambda call_id: b"\xff\xff\xff\xff" + b"x" * 100,
    "reply_frame": lambda call_id: frame(struct.pack(">BBHIQII", 4, 1, 0, 0, call_id, 0, 0) + b"true"),
    "hello_frame": lambda call_id: frame(struct.pack(">BBHIQII", 1, 1, 0, 0, 0, 0, 0) + b"{}"),
    "bad_json": lambda call_id: frame(b'{"id": %d, "ok": tru' % call_id),
    "nan": lambda call_id: frame(b'{"id": %d, "ok": true, "body": NaN}' % call_id),
    "no_reply": lambda call_id: frame(b'{"id": %d, "method": "echo"}' % call_id),
    "truncated": lambda call_id: answer(call_id, ok=True, body=1)[:-2],
    "other_id": lambda call_id: answer(call_id + 1, ok=True, body=1) + answer(0, ok=True, body=2)
    + answer(call_id, ok=True, body=True),
    "twice": lambda call_id: answer(call_id, ok=True, body=True) * 2,
    "null": lambda call_id: answer(call_id, ok=True),
    "coded": lambda call_id: answer(call_id, ok=False, error="no", code=5, type="KeyError", traceback="Traceback"),
}


def reply_to(request: Dict[str, Any]) -> bytes:
    """The reply to a request."""
    call_id, name = request["id"], request["method"]
    assert set(request) == {"id", "method", "body"}, f"unexpected members: {sorted(request)}"
    if name in BROKEN:
        return BROKEN[name](call_id)
    if name not in METHODS:
        return answer(call_id, ok=False, error=f"Method '{name}' not found")
    try:
        return answer(call_id, ok=True, body=METHODS[name](request["body"]))
    except (ValueError, RuntimeError) as error:
        return answer(call_id, ok=False, error=str(error))


def serve(wire: socket.socket) -> None:
    """Answers one connection until it ends."""
    while True:
        length = read(wire, 4)
        if len(length) < 4:
            return
        request = json.loads(read(wire, struct.unpack(">I", length)[0]))
        if request["method"] == "health" and MODE == "mute":
            continue
        if request["method"] == "health" and MODE in BROKEN:
            wire.sendall(BROKEN[MODE](request["id"]))
            continue
        try:
            wire.sendall(reply_to(request))
        except Exception as error:  # what cannot be serialised: as the Go library's worker does
            wire.sendall(answer(0, ok=False, error=str(error)))
            return
        if request["method"] == "truncated":
            os._exit(0)
        if request["method"] == "close":
            wire.close()
            return


def see_folder() -> Dict[str, Any]:
    """What the folder is like in which the path lies."""
    about = os.stat(os.path.dirname(PATH))
    return {"mode": oct(stat.S_IMODE(about.st_mode)), "owner": about.st_uid == os.geteuid()}


def tell(path: Optional[str]) -> None:
    """Writes the socket's path to a file."""
    if path:
        with open(path, "w", encoding="utf-8") as file:
            file.write(PATH)


def main() -> None:
    """Listens, with what the mode has to say about it."""
    tell(os.environ.get("E2E_TELL"))
    if MODE == "raise":
        raise RuntimeError("the script is broken")
    if MODE == "never":
        time.sleep(600)
    if MODE == "slow":
        time.sleep(0.3)
    if MODE == "stubborn":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(PATH)
    if MODE == "deaf":
        time.sleep(600)
    if MODE == "slow":
        time.sleep(0.3)
    listener.listen(1)
    kept = []
    while True:
        wire, _ = listener.accept()
        kept.append(wire)  # it never closes a connection that it gave up
        serve(wire)


SEEN = see_folder()

if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("told to stop", file=sys.stderr, flush=True)
