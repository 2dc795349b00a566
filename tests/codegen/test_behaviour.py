"""Generated C that runs: wrappers, tables, defaults, and presence as Python sees it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import List

import pytest
import support
from conftest import Generated

CHAT = next(case for case in support.CASES if case.name == "chat")
TYPES = next(case for case in support.CASES if case.name == "types")
PROTO2 = next(case for case in support.CASES if case.name == "proto2")


def test_generated_c_runs(generated: Generated, well_known: Path, tmp_path: Path) -> None:
    folders = [generated.case(TYPES), generated.case(PROTO2), generated.case(CHAT), well_known]
    sources = [Path(__file__).with_name("behaviour.c"), *(path for folder in folders for path in folder.rglob("*.c"))]
    program = tmp_path / "behaviour"
    subprocess.run(["gcc", "-std=c11", "-D_POSIX_C_SOURCE=200809L", *support.WARNINGS, "-fsanitize=undefined",
                    "-fno-sanitize-recover=undefined", f"-I{support.INCLUDE}", *(f"-I{folder}" for folder in folders),
                    *map(str, sources), "-o", str(program), "-lprotobuf-c", "-lm"], check=True)
    done = subprocess.run([str(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    text = support.run_python(
        "import types_pb2 as t\n"
        f"m = t.Optionals.FromString({done.stdout!r})\n"
        "print([f.name for f in t.Optionals.DESCRIPTOR.fields if m.HasField(f.name)])", folders[0])
    assert text.strip() == "['text', 'number']"


def test_shapes_are_those_of_python(generated: Generated, worker_package: List[Path]) -> None:
    """What the handlers' module says of the messages is what protobuf's own descriptors say."""
    code = """
import types_pyproc, types_pb2
def shape(m):
    kinds = {v.number: v.name[5:].lower() for v in __import__('google.protobuf.descriptor_pb2').protobuf.descriptor_pb2
             .FieldDescriptorProto.Type.DESCRIPTOR.values}
    return tuple((f.number, 'many' if f.label == f.LABEL_REPEATED else 'one',
                  '.' + f.message_type.full_name if f.message_type else kinds[f.type], f.name)
                 for f in sorted(m.fields, key=lambda f: f.number))
service = types_pyproc.TypesHandler.pyproc_service
waiting = [t.DESCRIPTOR for m in service.methods for t in (m.request, m.reply)]
found = {}
while waiting:
    m = waiting.pop()
    if m.full_name not in found:
        found[m.full_name] = shape(m)
        waiting.extend(f.message_type for f in m.fields if f.message_type)
assert found == service.messages, (found, service.messages)
print(len(found))
"""
    assert int(support.run_python(code, generated.case(TYPES), *worker_package)) > 20


@pytest.mark.parametrize("version, oldest, fits", [(1, 1, True), (2, 1, True), (2, 2, False), (0, 0, False)])
def test_other_runtimes_are_refused(version: int, oldest: int, fits: bool, generated: Generated,
                                    tmp_path: Path) -> None:
    out = generated.case(next(case for case in support.CASES if case.name == "quickstart"))
    for name in ("pyproc.h", "pyproc_generated.h"):
        text = (support.INCLUDE / name).read_text()
        text = re.sub(r"(#define PYPROC_GENERATED_VERSION) \d+", rf"\1 {version}", text)
        (tmp_path / name).write_text(re.sub(r"(#define PYPROC_GENERATED_OLDEST) \d+", rf"\1 {oldest}", text))
    command = ["gcc", "-std=c11", "-fsyntax-only", f"-I{tmp_path}", f"-I{out}", str(out / "quickstart.pyproc.c")]
    done = subprocess.run(command, stderr=subprocess.PIPE, universal_newlines=True, check=False)
    assert (done.returncode == 0) == fits
    assert ("#error" in done.stderr) != fits


def big_schema() -> str:
    """300 messages that refer to each other, with optional fields, maps and oneofs."""
    lines = ['syntax = "proto3";', "package big.v1;", 'import "google/protobuf/timestamp.proto";']
    for index in range(300):
        lines.append(f"message Message{index} {{")
        lines.append(f"  enum State {{ STATE_UNSPECIFIED = 0; STATE_{index} = {index + 1}; }}")
        lines.append(f"  optional State state = 1; optional string name = 2; Message{(index + 1) % 300} next = 3;")
        lines.append(f"  map<string, Message{index // 2}> children = 4; google.protobuf.Timestamp time = 5;")
        lines.append(f"  oneof kind {{ bytes data = 6; Message{index} self = 7; }} repeated double values = 8;")
        lines.append("}")
    lines.append("service Big {")
    lines.extend(f"  rpc Call{index}(Message{index}) returns (Message{299 - index});" for index in range(100))
    lines.append("}")
    return "\n".join(lines)


def test_big_file(well_known: Path, worker_package: List[Path], tmp_path: Path) -> None:
    (tmp_path / "big.proto").write_text(big_schema())
    out = tmp_path / "gen"
    support.generate(["big.proto"], tmp_path, out)
    support.compile_check("gcc", sorted(out.rglob("*.c")), [out, well_known])
    text = support.run_python("import worker, big_pyproc as b; print(len(b.BigHandler.pyproc_service.messages))",
                              out, *worker_package)
    assert int(text) == 601
