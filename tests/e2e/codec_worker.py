"""Serves through registered codecs; some of its replies are bytes that no codec would write."""
import random
from typing import Any

import e2e_codecs
from conformance_pyproc import Blob, EchoHandler
from google.protobuf.empty_pb2 import Empty
from kinds_pyproc import Everything, KindsHandler, Text, serve
from pyproc_worker import _codecs, expose
from quickstart_pyproc import PredictorHandler, PredictReply, PredictRequest

calls = [0, 0]  # of loads and of unpack


def hostile(seed: int, valid: bytes) -> bytes:
    """Valid bytes, damaged, or none at all."""
    numbers = random.Random(seed)
    if seed % 4 == 0:
        return numbers.randbytes(numbers.randrange(40))
    data = bytearray(valid)
    for _ in range(numbers.randrange(1, 4)):
        if data:
            data[numbers.randrange(len(data))] = numbers.choice((0, 1, 0x7f, 0x80, 0xc1, 0xdd, 0xdf, 0xff, 0xc6, 0xdb))
    if seed % 3 == 0:
        del data[numbers.randrange(len(data) + 1):]
    return bytes(data)


def spoil(codec: "_codecs.Codec") -> "_codecs.Codec":
    """The codec, which counts what it decodes, and whose replies to some requests are hostile."""
    def pack(message: Any) -> bytes:
        data = codec.pack(message)
        if isinstance(message, Everything) and message.scalars.an_int32:
            rich = Everything(longs=[1, -2], texts=["a", "\u00e4"], doubles=[0.5], counts={"k": 1}, name="n", maybe=3)
            rich.scalars.some_bytes = b"\0\xff"
            rich.by_number[-5].text = "x"
            rich.inners.add().child.child.text = "deep"
            return hostile(message.scalars.an_int32, codec.pack(rich))
        return data

    def unpack(data: bytes, message_class: Any) -> Any:
        calls[1] += 1
        return codec.unpack(data, message_class)

    def dumps(value: Any) -> bytes:
        if isinstance(value, dict) and "seed" in value:
            return hostile(value["seed"], codec.dumps([1, -2, 0.5, {"a": [None, True, "x"]}, "\u00e4", 1 << 40]))
        return codec.dumps(value)

    def loads(data: bytes) -> Any:
        calls[0] += 1
        return codec.loads(data)

    return _codecs.Codec(codec.name, pack, unpack, dumps, loads)


class Kinds(KindsHandler):
    """Echoes."""

    def echo(self, request: Everything, context: Any) -> Everything:
        """The request."""
        return request

    def nothing(self, request: Empty, context: Any) -> Empty:
        """Nothing."""
        return Empty()

    def fail(self, request: Text, context: Any) -> Text:
        """The request."""
        return request

    def wrong(self, request: Text, context: Any) -> Text:
        """The request."""
        return request


class Predictor(PredictorHandler):
    """Doubles."""

    def predict(self, request: PredictRequest, context: Any) -> PredictReply:
        """Twice the value."""
        return PredictReply(result=request.value * 2)


class Echo(EchoHandler):
    """Echoes."""

    def echo(self, request: Blob, context: Any) -> Blob:
        """The request."""
        return request


@expose
def echo(body: Any) -> Any:
    """The request."""
    return body


@expose
def kind(body: Any) -> Any:
    """The types of a list's elements."""
    return [type(item).__name__ for item in body]


@expose
def decoded(body: Any) -> Any:
    """How many bodies the codec decoded before this one: of dynamic calls, of typed ones."""
    return [calls[0] - 1, calls[1]]


@expose
def deep(body: int) -> Any:
    """A list that is so deep."""
    value: Any = []
    for _ in range(body - 1):
        value = [value]
    return value


@expose
def fail(body: Any) -> Any:
    """Raises."""
    raise ValueError(body)


@expose
def unserialisable(body: Any) -> Any:
    """What no codec takes."""
    return object()


@expose
def hostile_body(body: Any) -> Any:
    """The request, whose seed makes the reply hostile."""
    return body


if __name__ == "__main__":
    e2e_codecs.register()
    for name, registered in list(_codecs.registered.items()):
        _codecs.registered[name] = spoil(registered)
    serve(Kinds(), Predictor(), Echo())
