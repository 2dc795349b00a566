"""All stages in order: from descriptors to the contents of the files."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Dict, FrozenSet, List, Sequence

from google.protobuf import descriptor_pb2

from pyproc_gen import check, load, names, paths, protobuf_c, protobuf_python, render_c, render_python
from pyproc_gen.errors import Problems
from pyproc_gen.model import Schema


@dataclass(frozen=True)
class Result:
    """What a run has to write, by path below the output folder, and to say."""

    schema: Schema
    contents: Dict[str, bytes]
    notes: List[str]


def analyse(protos: Sequence[descriptor_pb2.FileDescriptorProto], requested: Sequence[str], sources: load.Sources,
            imports: bool, well_known: bool) -> Schema:
    """The checked model."""
    schema = load.build(protos, requested, sources, imports=imports, well_known=well_known)
    problems = Problems()
    check.check(schema, problems)
    problems.raise_any()
    return schema


def outputs(schema: Schema, imports: bool, well_known: bool) -> List[str]:
    """The paths of all files that a run would write, below the output folder."""
    found = [path for name in schema.emitted for path in paths.c_files(name)]
    if not well_known:
        found += [path for name in protobuf_python.modules(schema, imports) for path in paths.python_files(name)[:2]]
        found += [paths.python_files(name)[2] for name in schema.emitted]
    return sorted(found)


def generate(schema: Schema, protos: Sequence[descriptor_pb2.FileDescriptorProto], imports: bool,
             well_known: bool) -> Result:
    """Every file but the worker."""
    problems = Problems()
    chosen = names.choose(schema, problems)
    problems.raise_any()
    by_name = {proto.name: proto for proto in protos}
    texts = protobuf_c.generate(schema, chosen, by_name)
    texts.update(render_c.generate(schema, chosen))
    contents: Dict[str, bytes] = {}
    if not well_known:
        texts.update(render_python.generate(schema))
        contents.update(protobuf_python.generate(schema, by_name, protobuf_python.modules(schema, imports)))
    contents.update((path, text.encode("utf-8")) for path, text in texts.items())
    notes = list(chosen.renamed)
    return Result(schema, contents, notes if well_known else notes + _folder_notes(schema))


def _folder_notes(schema: Schema) -> List[str]:
    """Files whose Python modules cannot be imported, since a standard module has the name of their folder."""
    standard: FrozenSet[str] = getattr(sys, "stdlib_module_names", frozenset())
    return [
        f"{schema.files[name].location}: note: Python's own module {folder} hides the folder {folder}; name that with "
        "-I, so that it does not become part of the names"
        for name in schema.emitted for folder, slash, _ in [name.partition("/")] if slash and folder in standard
    ]
