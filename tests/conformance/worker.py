"""A complete worker in pure Python, written from schema/wire.md alone.

It proves that the page suffices, and runs in the conformance tests beside the real pyproc_worker. It has the feature
`started` instead of shared memory; one handler runs at once, on a thread of its own, and each stream has another.
"""
import base64
import hashlib
import json
import os
import queue
import re
import select
import socket
import struct
import sys
import threading
import traceback
from collections import deque
from typing import Any, Callable, Deque, Dict, Iterator, List, Optional, Tuple

HEADER = struct.Struct(">BBHIQII")
HELLO, WELCOME, REQUEST, REPLY, CANCEL, PING, PONG, STARTED, FAILED, STREAM_DATA, CREDIT, END = range(1, 13)
JSON = 1
CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED = 1, 2, 3, 4
RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, DATA_LOSS = 8, 12, 13, 15
TEXT_LIMIT, NESTING_LIMIT, PING_LIMIT = 64 << 10, 100, 64
MESSAGE_COST, MAX_STREAMS, STREAM_WINDOW = 64, 64, 256 << 10


class Failure(Exception):
    """How a call ends that does not end well."""

    def __init__(self, code: int, message: str, type_name: str = "", trace: str = "") -> None:
        self.code, self.error = code, clean(message)
        self.members: Dict[str, Any] = {"error": self.error, "code": code}
        if type_name:
            self.members.update(type=clean(type_name), traceback=clean(trace))


def clean(text: str) -> str:
    """A string of an error object: no NUL, no lone surrogate, not too long."""
    data = text.replace("\0", "\ufffd").encode("utf-8", "replace")
    if len(data) > TEXT_LIMIT:
        data = data[:TEXT_LIMIT // 2 - 8] + b" [...] " + data[8 - TEXT_LIMIT // 2:]
    return data.decode("utf-8", "ignore")


def checked_object(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    """An object whose names hold no NUL; of equal names the last counts."""
    if any("\0" in name for name, _ in pairs):
        raise ValueError("NUL in a name")
    return dict(pairs)


def parse_json(data: bytes, nesting_limit: int = NESTING_LIMIT - 2) -> Any:
    """Strict JSON in proper UTF-8, nested no deeper than allowed."""
    text = data.decode()
    depth = 0
    for token in re.findall(r'"(?:[^"\\]|\\.)*"|[][{}]', text, re.S):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token, 0)
        if depth > nesting_limit:
            raise ValueError("nested deeper than %d" % nesting_limit)
    value = json.loads(text, parse_constant=int, object_pairs_hook=checked_object)  # int refuses NaN
    json.dumps(value, ensure_ascii=False).encode()  # encode refuses a lone surrogate
    return value


def parse_envelope(data: bytes) -> Tuple[str, int, str, Any]:
    """Kind, id, method and body of an unwrapped envelope; a kind but request and cancellation is to be ignored."""
    given = parse_json(data, NESTING_LIMIT)
    kind = given["type"] if isinstance(given.get("type"), str) else "request"
    inner = given["payload"] if kind == given.get("type") and kind in ("request", "cancellation") else given
    call_id, method = inner.get("id", 0), inner.get("method", "")
    if type(call_id) is not int or not 0 <= call_id <= 2 ** 53 or not isinstance(method, str) or "\0" in method:
        raise ValueError("`id` is no integer in 0 ... 2^53, or `method` no text")
    return kind, call_id, method, inner.get("body", {})


SHAPES = {"conformance.Blob": [(1, "one", "bytes", "data")],
          "conformance.Task": [(1, "one", "int64", "count"), (2, "one", "int64", "size"), (3, "one", "string", "then")],
          "quickstart.PredictReply": [(1, "one", "double", "result")],
          "quickstart.PredictRequest": [(1, "one", "double", "value")]}


def predict(request: Any) -> Any:
    """quickstart.Predictor/Predict: PredictRequest.value twice, as PredictReply.result, in either codec."""
    if isinstance(request, bytes):
        if request and (len(request) != 9 or request[0] != 9):
            raise ValueError("not a PredictRequest")
        value = struct.unpack("<d", request[1:])[0] if request else 0.0
        return b"\x09" + struct.pack("<d", value * 2) if value else b""
    result = 2 * float(request.get("value") or 0)
    return {"result": {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}.get(str(result), result)}


TYPED: Dict[str, Tuple[str, str, Callable[[Any], Any]]] = {
    "quickstart.Predictor/Predict": ("quickstart.PredictRequest", "quickstart.PredictReply", predict),
    "conformance.Echo/Echo": ("conformance.Blob", "conformance.Blob", lambda request: request),
}


def read_varint(data: bytes, at: int) -> Tuple[int, int]:
    """A varint of the protobuf encoding, and what is behind it."""
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at


def decode(message: str, body: bytes, is_json: bool) -> Dict[str, Any]:
    """The fields of a message that holds int64, bytes and string only."""
    empty = {"int64": 0, "bytes": b"", "string": ""}
    result: Dict[str, Any] = {name: empty[kind] for _, _, kind, name in SHAPES[message]}
    kinds = {number: (kind, name) for number, _, kind, name in SHAPES[message]}
    if is_json:
        for name, value in parse_json(body).items():
            kind = type(result[name])
            result[name] = base64.b64decode(value) if kind is bytes else kind(value)
        return result
    at = 0
    while at < len(body):
        key, at = read_varint(body, at)
        value, at = read_varint(body, at)
        kind_name, name = kinds[key >> 3]
        if key & 7 == 2:
            value, at = body[at:at + value], at + value
        result[name] = value.decode() if kind_name == "string" else value
    return result


def encode(message: str, fields: Dict[str, Any], is_json: bool) -> bytes:
    """The other way round."""
    if is_json:
        return json.dumps({name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
                           for name, value in fields.items()}).encode()

    def varint(value: int) -> bytes:
        return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)

    out = b""
    for number, _, _, name in SHAPES[message]:
        value = fields.get(name)
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        elif value:
            data = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def obey(order: str, stream: "Stream") -> None:
    """What a Task or a Blob says is to be done instead of going on."""
    if order == "fail":
        raise ValueError("as told")
    if order == "hang":
        stream.wait_for_cancel()
    if order == "die":
        os._exit(9)


def produce(stream: "Stream") -> None:
    """conformance.Streams/Produce."""
    task = stream.request("conformance.Task")
    pattern = bytes(range(256)) * (task["size"] // 256 + 2)
    for number in range(task["count"]):
        stream.send({"data": pattern[number % 256:number % 256 + task["size"]]})
    obey(task["then"], stream)


def consume(stream: "Stream") -> Dict[str, Any]:
    """conformance.Streams/Consume."""
    count = size = 0
    for blob in stream.requests():
        order = blob["data"][:8].decode("latin-1")
        if order == "stop":
            break
        obey(order, stream)
        count, size = count + 1, size + len(blob["data"])
    return {"count": count, "size": size}


def converse(stream: "Stream") -> None:
    """conformance.Streams/Converse."""
    for blob in stream.requests():
        order = blob["data"][:8].decode("latin-1")
        if order == "stop":
            break
        obey(order, stream)
        stream.send(blob)


STREAMS: Dict[str, Tuple[str, str, str, Callable[["Stream"], Any]]] = {
    "conformance.Streams/Produce": ("server_stream", "conformance.Task", "conformance.Blob", produce),
    "conformance.Streams/Consume": ("client_stream", "conformance.Blob", "conformance.Task", consume),
    "conformance.Streams/Converse": ("bidi", "conformance.Blob", "conformance.Blob", converse),
}
DYNAMIC: Dict[str, Callable[[Any, threading.Event], Any]] = {
    "health": lambda body, _: {"status": "healthy", "pid": os.getpid()},
    "predict": lambda body, _: {"result": body["value"] * 2},
    "echo": lambda body, _: body,
    "sleep": lambda body, cancelled: cancelled.wait(body["ms"] / 1000),
    "fail": lambda body, _: int(body["text"]),
    "nan": lambda body, _: float("nan"),
    "big": lambda body, _: "x" * body["size"],
    "die": lambda body, _: os._exit(body["status"]),
    "beside": lambda body, _: body,
}
METHODS = list(TYPED) + list(STREAMS) + list(DYNAMIC)


def parse_metadata(data: bytes) -> List[Tuple[bytes, bytes]]:
    """The entries between header and body; ValueError where they break the page's rules."""
    entries, rest = [], data
    while rest:
        key_size, value_size = struct.unpack_from(">HI", rest) if len(rest) >= 6 else (1, 0)
        key, value = rest[6:6 + key_size], rest[6 + key_size:6 + key_size + value_size]
        if len(key) < key_size or len(value) < value_size:
            raise ValueError("an entry reaches beyond the end")
        if not re.fullmatch(rb"(?!grpc-|pyproc-)[0-9a-z_.-]{1,128}", key):
            raise ValueError("a key is not allowed")
        if not key.endswith(b"-bin") and not re.fullmatch(rb"(?:[!-~](?:[ -~]*[!-~])?)?", value):
            raise ValueError("a value is not allowed")
        entries.append((key, value))
        rest = rest[6 + key_size + value_size:]
    if len(data) > 16384 or len(entries) > 64:
        raise ValueError("more than 64 entries or 16 KiB")
    return entries


def pack_metadata(entries: List[Tuple[bytes, bytes]]) -> bytes:
    """The other way round."""
    return b"".join(struct.pack(">HI", len(key), len(value)) + key + value for key, value in entries)


def run_handler(method: str, body: Any, cancelled: threading.Event) -> bytes:
    """Runs a handler. `body` is bytes in the codec `protobuf`, else what JSON said; so is what it returns, as bytes."""
    try:
        result = TYPED[method][2](body) if method in TYPED else DYNAMIC[method](body, cancelled)
    except Exception as error:
        code = INVALID_ARGUMENT if method in TYPED or isinstance(body, bytes) else UNKNOWN
        raise Failure(code, str(error), type(error).__name__, traceback.format_exc()) from error
    try:
        return result if isinstance(result, bytes) else json.dumps(result, allow_nan=False).encode()
    except (ValueError, TypeError) as error:
        raise Failure(INTERNAL, "%s returned what cannot be sent: %s" % (method, error)) from error


def hello() -> bytes:
    """What this worker is and can do."""
    typed = []
    unary = [(name, "unary", request, reply) for name, (request, reply, _) in TYPED.items()]
    for name, kind, request, reply in unary + [(name, *about[:3]) for name, about in STREAMS.items()]:
        lines = ["%s %s %s" % (kind, request, reply)]
        for message in sorted({request, reply}):
            lines += [message] + ["%d %s %s %s" % field for field in SHAPES[message]]
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
        typed.append({"name": name, "kind": kind, "request": request, "reply": reply, "fingerprint": digest})
    return json.dumps({
        "version": 1, "oldest": 1, "pid": os.getpid(), "features": ["started", "streams"], "threads": 1,
        "messages": SHAPES,
        "methods": typed + [{"name": name, "kind": "unary"} for name in DYNAMIC]}).encode()


class Call:
    """A request on its way through the worker. `flags` None: it came, and goes, as an envelope."""

    def __init__(self, connection: "Connection", call_id: int, method: str, flags: Optional[int], body: Any,
                 metadata: bytes = b"") -> None:
        self.connection, self.id, self.method, self.flags, self.body = connection, call_id, method, flags, body
        self.metadata = metadata
        self.cancelled = threading.Event()
        self.cancel_code = CANCELLED

    def run(self) -> None:
        """Runs the handler and sends the one reply."""
        try:
            body = self.outcome()
            beside = self.beside()
            flags = JSON if beside else self.flags
            payload = (b'{"id": %d, "ok": true, "body": %s}' % (self.id, body) if flags is None else
                       HEADER.pack(REPLY, flags, 0, 0, self.id, 0, len(beside)) + beside + body)
            if len(payload) > self.connection.frame_limit:
                raise Failure(RESOURCE_EXHAUSTED, "the reply of %s is larger than the frame limit" % self.method)
        except Failure as failure:
            payload = self.failure(failure)
        self.connection.calls.pop(self.id, None)
        self.connection.send_payload(payload)

    def cancel(self, code: int) -> None:
        """The code is what the call then answers, if it has not been answered."""
        self.cancel_code = code
        self.cancelled.set()

    def beside(self) -> bytes:
        """The metadata that goes with the reply: what came, and one entry more."""
        if self.method != "beside" or not self.connection.welcomed:
            return b""
        return pack_metadata(parse_metadata(self.metadata) + [(b"served-by", b"beside")])

    def outcome(self) -> bytes:
        """The body of the reply."""
        try:
            parse_metadata(self.metadata)
        except ValueError as error:
            raise Failure(INVALID_ARGUMENT, "the metadata of the request: %s" % error) from error
        if self.method in STREAMS:
            raise Failure(INVALID_ARGUMENT, "%s is a stream, and cannot be called by an envelope" % self.method)
        if self.method not in METHODS:
            raise Failure(UNIMPLEMENTED, "there is no method %s" % (self.method or "of that index"))
        try:
            body = parse_json(self.body) if self.flags == JSON else self.body
        except ValueError as error:
            raise Failure(INVALID_ARGUMENT, "%s: bad request: %s" % (self.method, error)) from error
        if not self.cancelled.is_set():
            if self.connection.welcomed:
                self.connection.send(STARTED, call_id=self.id)
            body = run_handler(self.method, body, self.cancelled)
        if self.cancelled.is_set():
            raise Failure(self.cancel_code, "%s was cancelled" % self.method)
        return bytes(body)

    def failure(self, failure: Failure) -> bytes:
        """An error, in the form of the request."""
        if self.flags is not None:
            return HEADER.pack(REPLY, JSON, failure.code, 0, self.id, 0, 0) + json.dumps(failure.members).encode()
        members = failure.members if self.connection.welcomed else {"error": failure.error}
        return json.dumps({"id": self.id, "ok": False, **members}).encode()


class Stream(Call):
    """A request of a stream, and what goes both ways until its reply. It is run by a thread of its own."""

    def __init__(self, connection: "Connection", call_id: int, method: str, flags: int, body: bytes) -> None:
        super().__init__(connection, call_id, method, flags, body)
        self.kind, self.takes, self.gives, self.handler = STREAMS[method]
        self.is_json = flags == JSON
        self.changed = threading.Condition()
        self.inbox: Deque[bytes] = deque()
        self.ended = self.broken = False
        self.send_credit = self.receive_credit = connection.stream_window
        self.ungranted = 0

    def cancel(self, code: int) -> None:
        """Wakes whoever waits, too."""
        with self.changed:
            super().cancel(code)
            self.changed.notify_all()

    def fail_if_cancelled(self) -> None:
        """Ends the handler."""
        if self.broken:
            raise Failure(DATA_LOSS, "the host broke the protocol of streams")
        if self.cancelled.is_set():
            raise Failure(self.cancel_code, "%s was cancelled" % self.method)

    def wait_for_cancel(self) -> None:
        """Ends the handler, as soon as the host says so."""
        self.cancelled.wait()
        self.fail_if_cancelled()

    def request(self, message: str) -> Dict[str, Any]:
        """The one request of a server stream."""
        return decode(message, self.body, self.is_json)

    def requests(self) -> Iterator[Dict[str, Any]]:
        """What the host sends, until its end."""
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.inbox or self.ended or self.cancelled.is_set())
                self.fail_if_cancelled()
                if not self.inbox:
                    return
                body = self.inbox.popleft()
                self.ungranted += len(body) + MESSAGE_COST
                granted = self.ungranted if self.ungranted >= self.connection.stream_window // 4 else 0
                self.ungranted -= granted
                self.receive_credit += granted
            if granted:
                self.connection.send(CREDIT, 0, self.id, struct.pack(">I", granted))
            yield decode(self.takes, body, self.is_json)

    def send(self, fields: Dict[str, Any]) -> None:
        """One message, as soon as there is credit."""
        body = encode(self.gives, fields, self.is_json)
        with self.changed:
            self.changed.wait_for(lambda: self.send_credit > 0 or self.cancelled.is_set())
            self.fail_if_cancelled()
            self.send_credit -= len(body) + MESSAGE_COST
        self.connection.send(STREAM_DATA, self.flags or 0, self.id, body)

    def take(self, kind: int, flags: int, body: bytes) -> None:
        """A frame for this stream."""
        with self.changed:
            credit = struct.unpack(">I", body)[0] if kind == CREDIT and len(body) == 4 else 0
            if kind == END:
                self.ended = True
            elif kind == CREDIT and 0 < credit <= self.connection.stream_window - self.send_credit:
                self.send_credit += credit
            elif (kind == STREAM_DATA and self.receive_credit > 0 and flags == self.flags
                  and self.kind != "server_stream"):
                self.inbox.append(body)
                self.receive_credit -= len(body) + MESSAGE_COST
            else:
                self.broken = True
                self.cancelled.set()
            self.changed.notify_all()

    def outcome(self) -> bytes:
        """The body of the reply."""
        self.fail_if_cancelled()
        self.connection.send(STARTED, call_id=self.id)
        try:
            result = self.handler(self)
        except Failure:
            raise
        except Exception as error:
            raise Failure(UNKNOWN, str(error), type(error).__name__, traceback.format_exc()) from error
        return encode(self.gives, result, self.is_json) if self.kind == "client_stream" else b""


class Connection:
    """One socket: the frames that come in on it, and those that go out."""

    def __init__(self, wire: socket.socket, jobs: "queue.Queue[Call]", host_fd: int) -> None:
        self.wire, self.jobs, self.host_fd = wire, jobs, host_fd
        self.frame_limit = 64 << 20
        self.max_streams, self.stream_window = MAX_STREAMS, STREAM_WINDOW
        self.welcomed = False
        self.calls: Dict[int, Call] = {}
        self.lock = threading.Lock()

    def send_payload(self, payload: bytes) -> None:
        """One whole frame. A peer that has gone misses nothing."""
        try:
            with self.lock:
                self.wire.sendall(struct.pack(">I", len(payload)) + payload)
        except OSError:
            pass

    def send(self, kind: int, flags: int = 0, call_id: int = 0, body: bytes = b"") -> None:
        """A frame with a header."""
        self.send_payload(HEADER.pack(kind, flags, 0, 0, call_id, 0, 0) + body)

    def read(self, size: int) -> bytes:
        """So many bytes; EOFError once the peer or the host is gone."""
        data = bytearray()
        while len(data) < size:
            ready = select.select([self.wire.fileno()] + [self.host_fd] * (self.host_fd >= 0), [], [])[0]
            chunk = self.wire.recv(min(size - len(data), 1 << 20)) if self.wire.fileno() in ready else b""
            if not chunk:
                raise EOFError
            data += chunk
        return bytes(data)

    def serve(self) -> None:
        """Reads until the connection ends, and then cancels what runs on it."""
        try:
            while True:
                size = struct.unpack(">I", self.read(4))[0]
                if not 1 <= size <= self.frame_limit:
                    raise ValueError("a frame of %d bytes" % size)
                self.take(self.read(size))
        except (EOFError, OSError, ValueError) as error:
            sys.stderr.write("closing a connection: %s\n" % error if isinstance(error, ValueError) else "")
        for call in list(self.calls.values()):
            call.cancel(CANCELLED)
        self.wire.close()

    def take(self, payload: bytes) -> None:
        """One payload, whatever it is."""
        if payload[:1] == b"{":
            return self.take_envelope(payload)
        if len(payload) < HEADER.size or not 0 < payload[0] < 0x20:
            raise ValueError("neither a header nor an envelope")
        kind, flags, code, method, call_id, _, metadata_size = HEADER.unpack_from(payload)
        body = payload[HEADER.size + metadata_size:]
        if flags & ~JSON or HEADER.size + metadata_size > len(payload) or kind == PING and len(body) > PING_LIMIT:
            raise ValueError("a bad header")
        if kind == HELLO:
            self.send(HELLO, JSON, 0, hello())
        elif kind == WELCOME:
            welcome = json.loads(body)
            self.frame_limit = welcome.get("frame_limit", self.frame_limit)
            self.max_streams = welcome.get("max_streams", self.max_streams)
            self.stream_window = welcome.get("stream_window", self.stream_window)
            self.welcomed = True
        elif kind == REQUEST:
            name = METHODS[method] if method < len(METHODS) else ""
            if name in STREAMS:
                self.start_stream(Stream(self, call_id, name, flags, body))
            else:
                self.start(call_id, name, flags, body, payload[HEADER.size:HEADER.size + metadata_size])
        elif kind in (STREAM_DATA, CREDIT, END):
            call = self.calls.get(call_id)
            if isinstance(call, Stream):
                call.take(kind, flags, body)
        elif kind == PING:
            self.send(PONG, 0, call_id, body)
        elif kind == CANCEL:
            self.cancel(call_id, code if code == DEADLINE_EXCEEDED else CANCELLED)

    def take_envelope(self, payload: bytes) -> None:
        """A request, a cancellation, or one to ignore."""
        try:
            kind, call_id, method, body = parse_envelope(payload)
        except (ValueError, KeyError, AttributeError) as error:
            self.send_payload(json.dumps({"id": 0, "ok": False, "error": "no valid envelope: %s" % error}).encode())
            raise ValueError("no valid envelope") from error
        if kind == "request":
            self.start(call_id, method, None, body)
        elif kind == "cancellation":
            self.cancel(call_id, CANCELLED)

    def cancel(self, call_id: int, code: int) -> None:
        """One that is not known has been answered."""
        call = self.calls.get(call_id)
        if call is not None:
            call.cancel(code)

    def start(self, call_id: int, method: str, flags: Optional[int], body: Any, metadata: bytes = b"") -> None:
        """Has the call run in its turn."""
        self.calls[call_id] = Call(self, call_id, method, flags, body, metadata)
        self.jobs.put(self.calls[call_id])

    def start_stream(self, stream: Stream) -> None:
        """Has the stream run beside all else, or refuses it."""
        if sum(isinstance(call, Stream) for call in list(self.calls.values())) >= self.max_streams:
            self.send_payload(stream.failure(Failure(RESOURCE_EXHAUSTED, "more than max_streams streams")))
            return
        self.calls[stream.id] = stream
        threading.Thread(target=stream.run, daemon=True).start()


def run_calls(jobs: "queue.Queue[Call]") -> None:
    """Runs handlers, one at a time, in the order in which their requests came."""
    while True:
        jobs.get().run()


def main() -> None:
    """Serves the host's socket until the host is gone, or any number of clients of a path."""
    jobs: "queue.Queue[Call]" = queue.Queue()
    threading.Thread(target=run_calls, args=(jobs,), daemon=True).start()
    if "PYPROC_WORKER_FD" in os.environ:
        fd, host_fd = int(os.environ["PYPROC_WORKER_FD"]), int(os.environ["PYPROC_HOST_FD"])
        os.set_inheritable(fd, False)
        os.set_inheritable(host_fd, False)
        connection = Connection(socket.socket(fileno=fd), jobs, host_fd)
        connection.wire.setblocking(True)
        connection.send(HELLO, JSON, 0, hello())
        connection.serve()
        return
    with socket.create_server(os.environ["PYPROC_SOCKET_PATH"], family=socket.AF_UNIX) as listener:
        while True:
            threading.Thread(target=Connection(listener.accept()[0], jobs, -1).serve, daemon=True).start()


if __name__ == "__main__":
    main()
