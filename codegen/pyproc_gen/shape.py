"""Shapes and fingerprints of messages, as schema/wire.md defines them: what host and worker compare."""

from __future__ import annotations

import hashlib
from typing import Dict, List, Sequence, Set, Tuple

from pyproc_gen.model import Field, Message, Method, Schema

FieldShape = Tuple[int, str, str, str]  # number, label, type, name


def field_shape(field: Field) -> FieldShape:
    """A field's number, label, type and name."""
    kind = f".{field.type_name}" if field.type == "message" else field.type
    return field.number, "many" if field.repeated else "one", kind, field.name


def message_shape(message: Message) -> Tuple[FieldShape, ...]:
    """A message's fields, sorted by number."""
    return tuple(sorted(field_shape(field) for field in message.fields))


def reachable(schema: Schema, roots: Sequence[str]) -> List[str]:
    """The full names of the messages that `roots` reach, themselves among them, sorted."""
    found: Set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        waiting.extend(field.type_name for field in schema.message(name).fields if field.type == "message")
    return sorted(found)


def shapes(schema: Schema, roots: Sequence[str]) -> Dict[str, Tuple[FieldShape, ...]]:
    """The shape of each message that `roots` reach, sorted by name."""
    return {name: message_shape(schema.message(name)) for name in reachable(schema, roots)}


def fingerprint(schema: Schema, method: Method) -> str:
    """16 hex digits that differ when the wire-relevant shape of a method does."""
    lines = [f"{method.kind} {method.request} {method.reply}"]
    for name, fields in shapes(schema, [method.request, method.reply]).items():
        lines.append(name)
        lines.extend(" ".join(map(str, field)) for field in fields)
    return hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()[:16]
