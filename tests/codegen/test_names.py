"""The rules of names, shapes and the small wire reader, without running other programs."""

from __future__ import annotations

import hashlib
from typing import Dict, List, Tuple

import pytest
from google.protobuf import descriptor_pb2

from pyproc_gen import load, names, output, paths, shape, wire
from pyproc_gen.errors import Problems
from pyproc_gen.model import Schema

_FieldProto = descriptor_pb2.FieldDescriptorProto


@pytest.mark.parametrize("name, lower, camel", [
    ("Predictor", "predictor", "Predictor"),
    ("GetHTTPInfo", "get_httpinfo", "GetHTTPInfo"),
    ("IPv4Addr", "ipv4_addr", "IPv4Addr"),
    ("fooBar", "foo_bar", "FooBar"),
    ("foo_Bar", "foo__bar", "FooBar"),
    ("v1", "v1", "V1"),
    ("_x", "_x", "X"),
    ("A1B", "a1_b", "A1B"),
])
def test_one_rule(name: str, lower: str, camel: str) -> None:
    assert (names.lower(name), names.upper(name), names.camel(name)) == (lower, lower.upper(), camel)


def schema_of(fields: List[Tuple[str, int, int, str]], syntax: str = "proto3") -> Schema:
    """A file x.proto whose message p.M has the fields: name, type, label, type name."""
    proto = descriptor_pb2.FileDescriptorProto(name="x.proto", package="p", syntax=syntax)
    message = proto.message_type.add(name="M")
    for number, (name, kind, label, type_name) in enumerate(fields, 1):
        message.field.add(name=name, number=number, type=kind, label=label, type_name=type_name, json_name=name)
    return load.build([proto], ["x.proto"], load.Sources((), ("x.proto",), (), {}))


def members(names_of_fields: List[str], label: int, syntax: str = "proto3") -> Dict[str, str]:
    """The name that protoc-gen-c is told for each int32 field."""
    schema = schema_of([(name, _FieldProto.TYPE_INT32, label, "") for name in names_of_fields], syntax)
    chosen = names.choose(schema, Problems())
    return {name: chosen.fields[("p.M", name)] for name in names_of_fields}


def test_colliding_fields_get_an_underscore() -> None:
    assert members(["base", "Base", "x"], _FieldProto.LABEL_OPTIONAL) == {"base": "base_", "Base": "base__", "x": "x"}
    assert members(["n_x", "x"], _FieldProto.LABEL_REPEATED) == {"n_x": "n_x_", "x": "x"}
    assert members(["has_x", "x", "X"], _FieldProto.LABEL_OPTIONAL, "proto2") == {
        "has_x": "has_x_", "x": "x", "X": "x__"}  # not x_: its has_x_ is taken
    assert members(["class", "class_", "restrict"], _FieldProto.LABEL_OPTIONAL) == {
        "class": "class", "class_": "class__", "restrict": "restrict_"}


def test_shape_and_fingerprint_are_those_of_the_wire() -> None:
    schema = schema_of([
        ("z", _FieldProto.TYPE_SINT64, _FieldProto.LABEL_REPEATED, ""),
        ("self", _FieldProto.TYPE_MESSAGE, _FieldProto.LABEL_OPTIONAL, ".p.M"),
    ])
    assert shape.shapes(schema, ["p.M"]) == {"p.M": ((1, "many", "sint64", "z"), (2, "one", ".p.M", "self"))}
    proto = descriptor_pb2.FileDescriptorProto()
    method = load._FileBuilder(proto, "x.proto").method(  # pylint: disable=protected-access
        descriptor_pb2.MethodDescriptorProto(name="R", input_type=".p.M", output_type=".p.M", server_streaming=True),
        (), False)
    text = "server_stream p.M p.M\np.M\n1 many sint64 z\n2 one .p.M self"
    assert shape.fingerprint(schema, method) == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_one_option_is_taken_out_of_the_wire() -> None:
    varint, fixed64, fixed32 = b"\x08\x96\x01", b"\x11" + bytes(8), b"\x1d" + bytes(4)
    group, ours = b"\x23\x08\x01\x2b\x2c\x24", b"\xca\xf4\x18\x02\x08\x05"
    data = varint + ours + fixed64 + group + ours + fixed32
    assert wire.without(data, 51017) == varint + fixed64 + group + fixed32
    assert wire.extension(data, 51017) == b"\x08\x05\x08\x05"
    assert [number for number, _, _ in wire.fields(data)] == [1, 51017, 2, 4, 51017, 3]


def test_guards_differ_for_different_files() -> None:
    files = ["a/b.proto", "a_b.proto", "a-b.proto", "a.b.proto", "A/b.proto"]
    assert len({paths.guard(name) for name in files}) == len(files)


def test_python_modules_follow_protoc() -> None:
    assert paths.python_module("a-b/c.d.proto", "_pb2") == "a_b.c.d_pb2"
    assert paths.python_file("a_b.c.d_pb2", ".pyi") == "a_b/c/d_pb2.pyi"


def test_depfile_escapes() -> None:
    assert output.depfile(["a b"], ["c$d", "e#f"]) == b"a\\ b: \\\n c$$d \\\n e\\#f\n"
