"""The shared vectors hold in Python too: json, struct and Python's own protobuf agree with what the C tests check."""
import json
import math
import re
import struct
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from google.protobuf import json_format
from worker import pack_metadata, parse_metadata

HERE = Path(__file__).resolve().parent
SCHEMAS = HERE.parent / "unit"


def vectors(name: str, member: str) -> List[Any]:
    """The vectors of one list of a file, as pytest parameters; not those in which Python's protobuf differs."""
    everything = json.loads((HERE / "vectors" / name).read_text(encoding="utf-8"))
    return [pytest.param(vector, id=re.sub(r"\W+", "_", vector["name"])) for vector in everything[member]
            if vector.get("python", True)]


@pytest.fixture(scope="module", name="messages")
def _messages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dict[str, Any]]:
    """The message classes of the C unit tests' schemas by full name."""
    folder = tmp_path_factory.mktemp("kinds")
    schemas = ["kinds.proto", "kinds2.proto"]
    subprocess.run(["protoc", f"-I{SCHEMAS}", f"--python_out={folder}", *schemas], check=True)
    sys.path.insert(0, str(folder))
    try:
        modules = [import_module(schema.replace(".proto", "_pb2")) for schema in schemas]
    finally:
        sys.path.remove(str(folder))
    yield {descriptor.full_name: getattr(module, descriptor.name)
           for module in modules for descriptor in module.DESCRIPTOR.message_types_by_name.values()}


def without_nan(value: Any) -> Any:
    """The value with something in the place of NaN that equals itself."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return "NaN" if isinstance(value, float) and math.isnan(value) else value


@pytest.mark.parametrize("vector", vectors("json_mapping.json", "same"))
def test_same(messages: Dict[str, Any], vector: Dict[str, Any]) -> None:
    """Binary and JSON are the same message, both ways."""
    message = messages[vector["message"]].FromString(bytes.fromhex(vector["binary"]))
    assert without_nan(json.loads(json_format.MessageToJson(message))) == json.loads(vector["json"])
    again = json_format.Parse(vector["json"], messages[vector["message"]]())
    assert again.SerializeToString(deterministic=True) == message.SerializeToString(deterministic=True)


@pytest.mark.parametrize("vector", vectors("json_mapping.json", "accepted"))
def test_accepted(messages: Dict[str, Any], vector: Dict[str, Any]) -> None:
    """What Python takes as well means the same to it."""
    message = messages[vector["message"]]
    got = json_format.Parse(vector["json"], message(), ignore_unknown_fields=True)
    assert got == json_format.Parse(vector["canonical"], message())


@pytest.mark.parametrize("vector", vectors("json_mapping.json", "refused"))
def test_refused(messages: Dict[str, Any], vector: Dict[str, Any]) -> None:
    """What Python refuses as well."""
    with pytest.raises(json_format.ParseError):
        json_format.Parse(vector["json"], messages[vector["message"]](), ignore_unknown_fields=True)


@pytest.mark.parametrize("vector", vectors("frames.json", "frames"))
def test_frames(vector: Dict[str, Any]) -> None:
    """A frame is its length, its header, metadata and body."""
    header = vector["header"]
    payload = struct.pack(">BBHIQII", header["kind"], header["flags"], header["code"], header["method"], header["id"],
                          header["timeout_ms"], header["metadata_size"])
    payload += bytes.fromhex(vector["metadata"] + vector["body"])
    assert len(bytes.fromhex(vector["metadata"])) == header["metadata_size"]
    assert vector["frame"] == (struct.pack(">I", len(payload)) + payload).hex()


@pytest.mark.parametrize("vector", vectors("envelopes.json", "valid"))
def test_envelopes(vector: Dict[str, Any]) -> None:
    """The members that are listed are in the envelope, or in its payload."""
    envelope = json.loads(vector["payload"])
    wrapped = isinstance(envelope.get("type"), str) and "ok" not in envelope
    members = envelope.get("payload", {}) if wrapped else envelope
    if vector["type"] == "other":
        return
    for member in ("id", "method", "ok", "code", "timeout_ms", "error", "traceback", "reason"):
        wanted = vector.get(member)
        if wanted is not None and (wanted or member in members):
            assert str(members[member]).replace("\0", "\ufffd") == str(wanted)
    if "body" in vector:
        assert members["body"] == json.loads(vector["body"])


@pytest.mark.parametrize("vector", vectors("metadata.json", "good"))
def test_metadata(vector: Dict[str, Any]) -> None:
    """The worker that was written from the page reads and writes the same bytes."""
    data = bytes.fromhex(vector["bytes"])
    entries = [(key.encode(), bytes.fromhex(value)) for key, value in vector["entries"]]
    assert parse_metadata(data) == entries
    assert pack_metadata(entries) == data


@pytest.mark.parametrize("vector", vectors("metadata.json", "refused"))
def test_refused_metadata(vector: Dict[str, Any]) -> None:
    """It refuses the same, too."""
    with pytest.raises(ValueError):
        parse_metadata(bytes.fromhex(vector["bytes"]))
