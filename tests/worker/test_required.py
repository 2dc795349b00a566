"""A reply that lacks a required field is refused; where no message can lack one, nobody looks."""

from __future__ import annotations

from typing import Any

import pytest

from support import Host

descriptors = pytest.importorskip("google.protobuf.descriptor_pb2")
wrappers = pytest.importorskip("google.protobuf.wrappers_pb2")

SCRIPT = '''
from google.protobuf.descriptor_pb2 import UninterpretedOption
from google.protobuf.wrappers_pb2 import Int64Value, StringValue
from pyproc_worker import Handler, Method, Service, serve


class Base(Handler):
    pyproc_service = Service("shop.Parts", tuple(
        Method(f"shop.Parts/{name}", name.lower(), Int64Value, reply, "unary", "0123456789abcdef")
        for name, reply in (("Part", UninterpretedOption.NamePart), ("Whole", UninterpretedOption),
                            ("Plain", StringValue))))


class Parts(Base):
    def part(self, request, context):
        reply = UninterpretedOption.NamePart(name_part="x")
        if request.value:
            reply.is_extension = False
        return reply

    def whole(self, request, context):
        reply = UninterpretedOption()
        reply.name.add().CopyFrom(self.part(request, context))
        return reply

    def plain(self, request, context):
        return StringValue(value="x" * request.value)


if __name__ == "__main__":
    serve(Parts())
'''


def number(value: int) -> bytes:
    return bytes(wrappers.Int64Value(value=value).SerializeToString())


@pytest.mark.parametrize("method", ["Part", "Whole"])
def test_a_reply_without_its_required_field(host: Host, method: str) -> None:
    worker = host.start(SCRIPT)
    reply = worker.call(f"shop.Parts/{method}", number(0))
    assert reply.code == 13 and "the reply cannot be serialised" in reply.json["error"]
    assert "is_extension" in reply.json["error"]
    reply = worker.call(f"shop.Parts/{method}", number(1))
    assert reply.code == 0 and b"x" in reply.body


def test_a_reply_that_can_lack_nothing(host: Host) -> None:
    reply = host.start(SCRIPT).call("shop.Parts/Plain", number(3))
    assert (reply.code, wrappers.StringValue.FromString(reply.body).value) == (0, "xxx")


@pytest.mark.parametrize(("message", "expected"), [
    (wrappers.StringValue, False),
    (descriptors.UninterpretedOption.NamePart, True),   # a required field
    (descriptors.UninterpretedOption, True),            # in a message that it holds
    (descriptors.FileDescriptorSet, True),              # far inside; and messages that hold themselves come to an end
    (descriptors.FieldOptions, True),                   # can be extended by anything
])
def test_who_may_lack_a_field(message: Any, expected: bool) -> None:
    from pyproc_worker import _required
    complete: set[str] = set()
    assert _required.has_required(message.DESCRIPTOR, complete) is expected
    assert complete == (set() if expected else {message.DESCRIPTOR.full_name})
    assert _required.has_required(message.DESCRIPTOR, complete) is expected
