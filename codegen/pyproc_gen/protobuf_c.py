"""protobuf-c's messages: protoc-gen-c, driven with a request that it can answer.

What is changed in the request: services, extensions, comments and options are left out, and with them imports that only
they need; `const_strings` is on; a proto3 `optional`, which protoc-gen-c refuses, becomes a oneof of one member; map
entries become plain messages, which is what they are for protobuf-c; names are those that `names` chose. Defaults that
protoc-gen-c writes wrongly (see `defaults`) are put right in what it answers.
"""

from __future__ import annotations

from typing import Dict, List, Sequence

from google.protobuf import descriptor_pb2
from google.protobuf.compiler import plugin_pb2
from google.protobuf.message import DecodeError

from pyproc_gen import defaults
from pyproc_gen.errors import GeneratorError
from pyproc_gen.load import run_tool
from pyproc_gen.model import File, Schema
from pyproc_gen.names import Names

# option (pb_c_file).const_strings = true: extension 1019 of FileOptions, whose field 4 is true.
CONST_STRINGS = b"\xda\x3f\x02\x20\x01"


class _Rewriter:
    """Makes the descriptor that protoc-gen-c gets of one file."""

    def __init__(self, schema: Schema, names: Names) -> None:
        self.schema = schema
        self.names = names
        self._full: Dict[str, str] = {}

    def full_name(self, name: str) -> str:
        """The full name that a type has in the request."""
        if name not in self._full:
            outer = name.rpartition(".")[0]
            own = self.names.types[name].own
            if outer in self.schema.types:
                outer = self.full_name(outer)
            self._full[name] = f"{outer}.{own}" if outer else own
        return self._full[name]

    def _field(self, field: descriptor_pb2.FieldDescriptorProto, message: str) -> None:
        packed = field.options.packed if field.options.HasField("packed") else None
        field.ClearField("options")
        if packed is not None:
            field.options.packed = packed
        field.ClearField("proto3_optional")
        field.ClearField("json_name")
        field.name = self.names.fields[(message, field.name)]
        if field.type_name:
            field.type_name = "." + self.full_name(field.type_name[1:])

    def _enum(self, enum: descriptor_pb2.EnumDescriptorProto, full: str) -> None:
        enum.name = self.names.types[full].own
        enum.ClearField("options")
        if len({value.number for value in enum.value}) != len(enum.value):
            enum.options.allow_alias = True
        for value in enum.value:
            value.ClearField("options")

    def _message(self, message: descriptor_pb2.DescriptorProto, full: str) -> None:
        for field in message.field:
            self._field(field, full)
        for oneof in message.oneof_decl:
            oneof.name = self.names.oneofs[(full, oneof.name)]
            oneof.ClearField("options")
        for enum in message.enum_type:
            self._enum(enum, f"{full}.{enum.name}")
        for inner in message.nested_type:
            self._message(inner, f"{full}.{inner.name}")
        for unused in ("extension", "extension_range", "reserved_range", "reserved_name", "options"):
            message.ClearField(unused)
        message.name = self.names.types[full].own

    def file(self, source: descriptor_pb2.FileDescriptorProto, file: File) -> descriptor_pb2.FileDescriptorProto:
        """A rewritten copy."""
        proto = descriptor_pb2.FileDescriptorProto()
        proto.CopyFrom(source)
        dot = f"{file.package}." if file.package else ""
        for message in proto.message_type:
            self._message(message, dot + message.name)
        for enum in proto.enum_type:
            self._enum(enum, dot + enum.name)
        for unused in ("service", "extension", "source_code_info", "options", "dependency", "public_dependency",
                       "weak_dependency"):
            proto.ClearField(unused)
        proto.dependency.extend(c_imports(self.schema, file))
        proto.options.ParseFromString(CONST_STRINGS)
        return proto


def c_imports(schema: Schema, file: File) -> List[str]:
    """The files that the messages of a file need; those of its services alone are not among them."""
    used = {field.type_name for message in file.all_messages() for field in message.fields if field.type_name}
    return sorted({schema.homes[name] for name in used} - {file.name})


def _with_imports(schema: Schema, names: Sequence[str]) -> List[str]:
    """The files and all that their messages need, imports first."""
    wanted = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            waiting.extend(c_imports(schema, schema.files[name]))
    return [name for name in schema.files if name in wanted]


def generate(schema: Schema, names: Names, protos: Dict[str, descriptor_pb2.FileDescriptorProto]) -> Dict[str, str]:
    """The `.pb-c.h` and `.pb-c.c` of all files that are written: path -> text."""
    if not schema.emitted:
        return {}
    rewriter = _Rewriter(schema, names)
    request = plugin_pb2.CodeGeneratorRequest()
    request.file_to_generate.extend(schema.emitted)
    for name in _with_imports(schema, schema.emitted):
        request.proto_file.append(rewriter.file(protos[name], schema.files[name]))
    done = run_tool(["protoc-gen-c"], request.SerializeToString())
    response = plugin_pb2.CodeGeneratorResponse()
    try:
        response.ParseFromString(done.stdout)
    except DecodeError:
        response.error = "its answer cannot be read"
    error = response.error or done.stderr.decode("utf-8", "replace").strip()
    if done.returncode != 0 or response.error:
        text = error or f"it ended with status {done.returncode}"
        raise GeneratorError([f"{schema.files[schema.emitted[-1]].location}: protoc-gen-c failed: {line}"
                              for line in text.splitlines()])
    texts = {item.name: item.content for item in response.file}
    defaults.repair(schema, names, texts)
    return texts
