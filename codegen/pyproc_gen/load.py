"""Reads schema files: protoc parses them, its descriptors become the model."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Dict, FrozenSet, List, Sequence, Set, Tuple, Union

from google.protobuf import descriptor_pb2
from google.protobuf.message import DecodeError

from pyproc_gen import wire
from pyproc_gen.errors import GeneratorError
from pyproc_gen.model import (
    OPTIONS_FILE, WELL_KNOWN_FILES, Enum, EnumValue, Field, File, Location, Message, Method, Retry, Schema, Service,
)

# Our extensions of MethodOptions and ServiceOptions, and the fields of their messages.
OPTION_NUMBER = 51017
METHOD_TIMEOUT_MS, METHOD_IDEMPOTENT, METHOD_C_NAME, METHOD_RETRY = 1, 2, 3, 4
RETRY_MAX_ATTEMPTS, RETRY_INITIAL_BACKOFF_MS, RETRY_MAX_BACKOFF_MS, RETRY_MULTIPLIER, RETRY_CODES = 1, 2, 3, 4, 5
SERVICE_C_PREFIX = 1

_FieldProto = descriptor_pb2.FieldDescriptorProto
SCALARS: Dict[int, str] = {
    value.number: value.name[len("TYPE_"):].lower() for value in _FieldProto.Type.DESCRIPTOR.values
}
Path = Tuple[int, ...]


@dataclass(frozen=True)
class Sources:
    """Where schema files come from: import folders, and the files to generate, as imports spell them."""

    roots: Tuple[str, ...]
    names: Tuple[str, ...]
    inputs: Tuple[str, ...]  # the same files as protoc wants them
    given: Dict[str, str]  # name -> path as the user wrote it

    def path(self, name: str) -> str:
        """The path of a schema file as a person would find it; its bare name when no folder has it."""
        if name in self.given:
            return self.given[name]
        for root in self.roots:
            path = os.path.join(root, name)
            if os.path.exists(path):
                return os.path.normpath(path)
        return name


def find_protoc_include() -> str:
    """The folder of protobuf's own schemas, beside protoc; empty when it is not there."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if os.access(os.path.join(folder, "protoc"), os.X_OK):
            include = os.path.join(os.path.dirname(os.path.realpath(os.path.join(folder, "protoc"))), "..", "include")
            if os.path.exists(os.path.join(include, WELL_KNOWN_FILES[0])):
                return os.path.normpath(include)
    return ""


def find_sources(paths: Sequence[str], includes: Sequence[str], schema_dir: str) -> Sources:
    """Turn the command line's files into names below import folders, by protoc's rules.

    Without -I the folder is the current one, or, for a file that is not below it, the file's own.
    """
    roots = list(includes)
    if not roots:
        roots = ["."]
        for path in paths:
            if os.path.relpath(path).startswith(os.pardir + os.sep):
                folder = os.path.dirname(path)
                if folder not in roots:
                    roots.append(folder)
    for root in roots:
        if not os.path.isdir(root):
            raise GeneratorError([f"pyproc-gen: -I {root}: no such folder"])
    inputs: Dict[str, str] = {}
    given: Dict[str, str] = {}
    own = [folder for folder in (schema_dir, find_protoc_include()) if folder and os.path.isdir(folder)]
    for path in paths:
        name, disk = _name_below(path, roots, own)
        inputs.setdefault(name, disk)
        given.setdefault(name, path)
    return Sources(tuple(roots + own), tuple(inputs), tuple(inputs.values()), given)


def _name_below(path: str, roots: Sequence[str], own: Sequence[str]) -> Tuple[str, str]:
    """A file's name below its import folder, and its path through that folder."""
    if not os.path.exists(path):
        for root in (*roots, *own):
            if not os.path.isabs(path) and os.path.exists(os.path.join(root, path)):
                name = os.path.normpath(path).replace(os.sep, "/")
                return name, os.path.join(root, name)
        raise GeneratorError([f"{path}:1:1: there is no such file, neither here nor in an import folder "
                              f"({', '.join(roots)})"])
    if os.path.isdir(path):
        raise GeneratorError([f"{path}:1:1: this is a folder; name the .proto files in it"])
    for root in roots:
        relative = os.path.relpath(os.path.abspath(path), os.path.abspath(root))
        if not relative.startswith(os.pardir + os.sep):
            return relative.replace(os.sep, "/"), os.path.join(root, relative)
    raise GeneratorError([f"{path}:1:1: the file is in none of the import folders ({', '.join(roots)}); "
                          "name its folder with -I"])


def run_tool(command: Sequence[str], data: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    """Run another generator; GeneratorError when it is not there."""
    try:
        return subprocess.run(command, input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    except FileNotFoundError:
        package = "protobuf-c-compiler" if command[0] == "protoc-gen-c" else "protobuf-compiler"
        raise GeneratorError([f"pyproc-gen: {command[0]} is not on PATH; install it (Debian: {package})"]) from None
    except OSError as error:
        raise GeneratorError([f"pyproc-gen: cannot run {command[0]}: {error.strerror}"]) from None


def run_protoc(sources: Sources) -> Tuple[descriptor_pb2.FileDescriptorSet, List[str]]:
    """Parse the schemas and all that they import. Returns the descriptors, imports first, and protoc's warnings."""
    with tempfile.TemporaryDirectory(prefix="pyproc-gen-") as folder:
        output = os.path.join(folder, "set")
        command = ["protoc", *(f"-I{root}" for root in sources.roots), "--include_imports", "--include_source_info",
                   f"--descriptor_set_out={output}", *sources.inputs]
        done = run_tool(command)
        lines = [_locate(line, sources) for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        if done.returncode != 0:
            raise GeneratorError(lines or [f"pyproc-gen: protoc failed with status {done.returncode}"])
        result = descriptor_pb2.FileDescriptorSet()
        with open(output, "rb") as stream:
            result.ParseFromString(stream.read())
    return result, lines


def _locate(line: str, sources: Sources) -> str:
    """A line of protoc's with the path that a person knows the file by."""
    match = re.match(r"^\[libprotobuf [^\]]*\] (?P<text>.*proto file: (?P<name>[^: ]+\.proto)\..*)$", line)
    if match:
        return f"{sources.path(match['name'])}:1:1: warning: {match['text']}"
    match = re.match(r"^(?P<name>[^:]+\.proto):(?P<rest>\d+:\d+: .*)$", line)
    if match:
        return f"{sources.path(match['name'])}:{match['rest']}"
    match = re.match(r"^(?P<name>[^: ]+\.proto): (?P<rest>.*)$", line)
    if match:
        own = match["name"].startswith("google/protobuf/") and "not found" in match["rest"]
        hint = " It comes with protobuf (Debian: libprotobuf-dev)." if own else ""
        return f"{sources.path(match['name'])}:1:1: {match['rest']}{hint}"
    return line


class _Places:
    """Locations and comments of one file's declarations."""

    def __init__(self, proto: descriptor_pb2.FileDescriptorProto, path: str) -> None:
        self.path = path
        self._spans: Dict[Path, Tuple[int, int]] = {}
        self._comments: Dict[Path, str] = {}
        for place in proto.source_code_info.location:
            key = tuple(place.path)
            self._spans.setdefault(key, (place.span[0] + 1, place.span[1] + 1))
            if place.leading_comments:
                self._comments.setdefault(key, place.leading_comments)

    def at(self, *paths: Path) -> Location:
        """The place of the first of the paths that is known; the file's beginning without one."""
        for path in paths:
            if path in self._spans:
                return Location(self.path, *self._spans[path])
        return Location(self.path)

    def name(self, path: Path) -> Location:
        """Where the declaration's name stands."""
        return self.at(path + (1,), path)

    def comment(self, path: Path) -> str:
        """The comment in front of a declaration, without its marks."""
        lines = [line.rstrip() for line in self._comments.get(path, "").splitlines()]
        return "\n".join(line[1:] if line.startswith(" ") else line for line in lines).strip("\n")


class _FileBuilder:
    """Turns one file's descriptor into the model."""

    def __init__(self, proto: descriptor_pb2.FileDescriptorProto, path: str) -> None:
        self.proto = proto
        self.places = _Places(proto, path)
        self.package = proto.package

    def _full(self, outer: str, name: str) -> str:
        return f"{outer}.{name}" if outer else name

    def field(self, proto: descriptor_pb2.FieldDescriptorProto, oneofs: Sequence[str], path: Path) -> Field:
        """A field."""
        return Field(
            name=proto.name, json_name=proto.json_name, number=proto.number, type=SCALARS[proto.type],
            type_name=proto.type_name.lstrip("."), repeated=proto.label == _FieldProto.LABEL_REPEATED,
            required=proto.label == _FieldProto.LABEL_REQUIRED, has_default=proto.HasField("default_value"),
            default=proto.default_value, oneof=oneofs[proto.oneof_index] if proto.HasField("oneof_index") else None,
            proto3_optional=proto.proto3_optional, location=self.places.name(path))

    def enum(self, proto: descriptor_pb2.EnumDescriptorProto, outer: str, path: Path) -> Enum:
        """An enum."""
        values = tuple(EnumValue(value.name, value.number) for value in proto.value)
        return Enum(self._full(outer, proto.name), values, self.places.name(path))

    def message(self, proto: descriptor_pb2.DescriptorProto, outer: str, path: Path) -> Message:
        """A message with all in it."""
        full = self._full(outer, proto.name)
        oneofs = tuple(oneof.name for oneof in proto.oneof_decl)
        return Message(
            full_name=full,
            fields=tuple(self.field(item, oneofs, path + (2, i)) for i, item in enumerate(proto.field)),
            oneofs=oneofs,
            messages=tuple(self.message(item, full, path + (3, i)) for i, item in enumerate(proto.nested_type)),
            enums=tuple(self.enum(item, full, path + (4, i)) for i, item in enumerate(proto.enum_type)),
            map_entry=proto.options.map_entry, message_set=proto.options.message_set_wire_format,
            location=self.places.name(path))

    def method(self, proto: descriptor_pb2.MethodDescriptorProto, path: Path, ours: bool) -> Method:
        """An rpc with our options."""
        values: Dict[int, Union[int, bytes]] = {}
        data = b""
        if ours:
            data = wire.extension(proto.options.SerializeToString(), OPTION_NUMBER)
            values = {number: value for number, value, _ in wire.fields(data)}
        options = path + (4, OPTION_NUMBER)
        retry_location = self.places.at(options + (METHOD_RETRY,), options, path + (4,), path + (1,), path)
        kind = {(False, False): "unary", (False, True): "server_stream", (True, False): "client_stream",
                (True, True): "bidi"}[(proto.client_streaming, proto.server_streaming)]
        return Method(
            name=proto.name, request=proto.input_type.lstrip("."), reply=proto.output_type.lstrip("."), kind=kind,
            timeout_ms=_signed(values.get(METHOD_TIMEOUT_MS)), idempotent=bool(values.get(METHOD_IDEMPOTENT)),
            retry=_retry(wire.extension(data, METHOD_RETRY), retry_location) if METHOD_RETRY in values else None,
            c_name=_text(values.get(METHOD_C_NAME)), comment=self.places.comment(path), location=self.places.name(path),
            options_location=self.places.at(options, path + (4,), path + (1,), path))

    def service(self, proto: descriptor_pb2.ServiceDescriptorProto, path: Path, ours: bool) -> Service:
        """A service with our options."""
        prefix = ""
        if ours:
            data = wire.extension(proto.options.SerializeToString(), OPTION_NUMBER)
            prefix = _text({number: value for number, value, _ in wire.fields(data)}.get(SERVICE_C_PREFIX))
        return Service(
            full_name=self._full(self.package, proto.name),
            methods=tuple(self.method(item, path + (2, i), ours) for i, item in enumerate(proto.method)),
            c_prefix=prefix, comment=self.places.comment(path), location=self.places.name(path),
            options_location=self.places.at(path + (3, OPTION_NUMBER), path + (3,), path + (1,), path))


def _text(value: Union[int, bytes, None]) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def _signed(value: Union[int, bytes, None]) -> int:
    """An int32 or int64 of the wire."""
    number = value if isinstance(value, int) else 0
    return number - (1 << 64) if number >> 63 else number


def _retry(data: bytes, location: Location) -> Retry:
    """A retry policy; what is absent has its default."""
    values: Dict[int, Union[int, bytes]] = {}
    codes: List[str] = []
    for number, value, _ in wire.fields(data):
        values[number] = value
        if number == RETRY_CODES:
            codes.append(_text(value))
    multiplier = values.get(RETRY_MULTIPLIER, b"")
    initial = _signed(values.get(RETRY_INITIAL_BACKOFF_MS)) or 100
    return Retry(
        max_attempts=_signed(values.get(RETRY_MAX_ATTEMPTS)) or 3, initial_backoff_ms=initial,
        max_backoff_ms=_signed(values.get(RETRY_MAX_BACKOFF_MS)) or max(5000, initial),
        backoff_multiplier=(struct.unpack("<d", multiplier)[0] if isinstance(multiplier, bytes) and multiplier else 0)
        or 2.0,
        codes=tuple(codes) or ("UNAVAILABLE",), location=location)


def _type_names(messages: Sequence[Message], services: Sequence[Service]) -> Set[str]:
    names = {field.type_name for top in messages for message in top.walk() for field in message.fields}
    for service in services:
        names.update(name for method in service.methods for name in (method.request, method.reply))
    names.discard("")
    return names


def _homes(protos: Sequence[descriptor_pb2.FileDescriptorProto]) -> Dict[str, str]:
    homes: Dict[str, str] = {}

    def add(proto: descriptor_pb2.DescriptorProto, outer: str, home: str) -> None:
        full = f"{outer}.{proto.name}" if outer else proto.name
        homes[full] = home
        for enum in proto.enum_type:
            homes[f"{full}.{enum.name}"] = home
        for inner in proto.nested_type:
            add(inner, full, home)

    for file in protos:
        for enum in file.enum_type:
            homes[f"{file.package}.{enum.name}" if file.package else enum.name] = file.name
        for message in file.message_type:
            add(message, file.package, file.name)
    return homes


def build(protos: Sequence[descriptor_pb2.FileDescriptorProto], requested: Sequence[str], sources: Sources,
          imports: bool = True, well_known: bool = False) -> Schema:
    """The model of files that stand in order, imports first.

    `imports`: also write the code of imported files whose types are needed. `well_known`: write protobuf's own types
    rather than expect them in the library.
    """
    homes = _homes(protos)
    files: Dict[str, File] = {}
    ours = any(proto.name == OPTIONS_FILE for proto in protos)
    for proto in protos:
        builder = _FileBuilder(proto, sources.path(proto.name))
        messages = tuple(builder.message(item, proto.package, (4, i)) for i, item in enumerate(proto.message_type))
        enums = tuple(builder.enum(item, proto.package, (5, i)) for i, item in enumerate(proto.enum_type))
        services = tuple(builder.service(item, (6, i), ours) for i, item in enumerate(proto.service))
        needed = {homes[name] for name in _type_names(messages, services)} - {proto.name}
        files[proto.name] = File(
            name=proto.name, path=builder.places.path, package=proto.package, syntax=proto.syntax or "proto2",
            messages=messages, enums=enums, services=services, imports=tuple(proto.dependency),
            type_imports=tuple(sorted(needed)))
    types: Dict[str, Union[Message, Enum]] = {}
    for file in files.values():
        types.update((message.full_name, message) for message in file.all_messages())
        types.update((enum.full_name, enum) for enum in file.all_enums())
    shipped: FrozenSet[str] = frozenset() if well_known else frozenset(WELL_KNOWN_FILES)
    return Schema(files, tuple(requested), _emitted(files, requested, imports, shipped), types, homes)


def _emitted(files: Dict[str, File], requested: Sequence[str], imports: bool,
             shipped: FrozenSet[str]) -> Tuple[str, ...]:
    wanted: Set[str] = set()
    waiting = list(requested)
    while waiting:
        name = waiting.pop()
        if name in wanted or name in shipped:
            continue
        wanted.add(name)
        if imports:
            waiting.extend(files[name].type_imports)
    return tuple(name for name in files if name in wanted)


def parse_set(data: bytes) -> descriptor_pb2.FileDescriptorSet:
    """A serialised descriptor set; GeneratorError when it is none."""
    result = descriptor_pb2.FileDescriptorSet()
    try:
        result.ParseFromString(data)
    except DecodeError:
        raise GeneratorError(["pyproc-gen: the descriptor set cannot be read"]) from None
    return result
