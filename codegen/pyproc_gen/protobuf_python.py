"""protobuf's Python messages: protoc's own generator, on schemas without our options."""

from __future__ import annotations

import os
import tempfile
from typing import Dict, List, Sequence

from google.protobuf import descriptor_pb2

from pyproc_gen import wire
from pyproc_gen.errors import GeneratorError
from pyproc_gen.load import OPTION_NUMBER, run_tool
from pyproc_gen.model import OPTIONS_FILE, Schema


def _without_options(source: descriptor_pb2.FileDescriptorProto, schema: Schema) -> descriptor_pb2.FileDescriptorProto:
    """A copy that does not import pyproc/options.proto, where only options need it."""
    proto = descriptor_pb2.FileDescriptorProto()
    proto.CopyFrom(source)
    if OPTIONS_FILE not in proto.dependency or OPTIONS_FILE in schema.files[source.name].type_imports:
        return proto
    gone = list(proto.dependency).index(OPTIONS_FILE)
    del proto.dependency[gone]
    for indices in (proto.public_dependency, proto.weak_dependency):
        kept = [index - (index > gone) for index in indices if index != gone]
        del indices[:]
        indices.extend(kept)
    for service in proto.service:
        for item in (service, *service.method):
            if item.HasField("options"):
                kept_options = wire.without(item.options.SerializeToString(), OPTION_NUMBER)
                item.ClearField("options")
                if kept_options:
                    item.options.ParseFromString(kept_options)
    return proto


def modules(schema: Schema, imports: bool) -> List[str]:
    """The schema files whose `_pb2` modules are written: those that are generated and all that these import."""
    wanted = set()
    waiting = list(schema.emitted)
    while waiting:
        name = waiting.pop()
        if name in wanted or name in schema.well_known:
            continue
        wanted.add(name)
        file = schema.files[name]
        if imports:
            waiting.extend(item for item in file.imports if item != OPTIONS_FILE or item in file.type_imports)
    return [name for name in schema.files if name in wanted]


def generate(schema: Schema, protos: Dict[str, descriptor_pb2.FileDescriptorProto],
             names: Sequence[str]) -> Dict[str, bytes]:
    """The `_pb2.py` and `_pb2.pyi` of the schema files `names`: path -> content."""
    if not names:
        return {}
    files = descriptor_pb2.FileDescriptorSet(file=[_without_options(proto, schema) for proto in protos.values()])
    with tempfile.TemporaryDirectory(prefix="pyproc-gen-") as folder:
        descriptors = os.path.join(folder, "set")
        output = os.path.join(folder, "out")
        os.mkdir(output)
        with open(descriptors, "wb") as stream:
            stream.write(files.SerializeToString())
        done = run_tool(["protoc", f"--descriptor_set_in={descriptors}", f"--python_out={output}",
                         f"--pyi_out={output}", *names])
        if done.returncode != 0:
            lines = done.stderr.decode("utf-8", "replace").splitlines()
            raise GeneratorError([f"pyproc-gen: protoc --python_out failed: {line}" for line in lines])
        return _read_all(output)


def _read_all(folder: str) -> Dict[str, bytes]:
    found: Dict[str, bytes] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            with open(path, "rb") as stream:
                found[os.path.relpath(path, folder).replace(os.sep, "/")] = stream.read()
    return found
