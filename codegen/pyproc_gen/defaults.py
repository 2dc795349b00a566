"""Puts right what protoc-gen-c writes for initial values.

It writes `inf` and `nan`, which are nothing in C; rounds floating-point numbers to 6 or 15 digits; writes the least
int64 so that compilers warn; leaves trigraphs in strings; and begins every oneof with `{0}`, which C++ refuses where
the first member is an enum, and of which compilers warn where it is bytes. Nothing else is touched.
"""

from __future__ import annotations

import re
from typing import Dict, List, Optional

from pyproc_gen import paths
from pyproc_gen.errors import GeneratorError
from pyproc_gen.model import Enum, Field, Message, Schema
from pyproc_gen.names import Names, TypeName, c_member, lower

_NON_FINITE = {"inf": "INFINITY", "-inf": "-INFINITY", "nan": "NAN", "-nan": "NAN"}


def literal(field: Field) -> Optional[str]:
    """The C constant for a default that protoc-gen-c does not write well; else None."""
    if not field.has_default:
        return None
    if field.type in ("float", "double"):
        if field.default in _NON_FINITE:
            text = _NON_FINITE[field.default]
            return text if field.type == "float" else f"(double){text}"
        text = repr(float(field.default))
        return f"{text}f" if field.type == "float" else text
    if field.type in ("int64", "sint64", "sfixed64") and field.default == str(-(1 << 63)):
        return "INT64_MIN"
    return None


def _split(values: str) -> List[str]:
    """The items of an initialiser list; braces keep theirs together."""
    return re.findall(r"(?:\{(?:[^{}]|\{[^{}]*\})*\}|[^,{}])+", values)


def _first_members(header: str, name: TypeName) -> List[str]:
    """The first member of each union in a message's struct: protobuf-c 1.5 sorts them, 1.4 does not."""
    match = re.search(rf"(?ms)^struct  ?{name.type}\n\{{\n(.*?)^\}};\n", header)
    unions = re.findall(r"(?ms)^  union \{\n(.*?)^  \};\n", match[1]) if match else []
    return [re.findall(r"(\w+);", union)[0] for union in unions]


def _oneof_value(schema: Schema, names: Names, message: Message, member: str) -> Optional[str]:
    """The initial value of a union whose first member is an enum or bytes; else None."""
    first = next(field for field in message.fields
                 if c_member(names.fields[(message.full_name, field.name)]) == member)
    if first.type == "bytes":
        return "{{0, NULL}}"
    if first.type != "enum":
        return None
    enum = schema.types[first.type_name]
    assert isinstance(enum, Enum)
    value = next((value for value in enum.values if value.number == 0), enum.values[0])
    return f"{{{names.types[enum.full_name].upper}__{value.name}}}"


def _initial_values(schema: Schema, names: Names, message: Message, header: str) -> List[Optional[str]]:
    """For each item of a message's `__INIT` behind the base what it should be; None where it is right."""
    syntax = schema.files[schema.homes[message.full_name]].syntax
    items: List[Optional[str]] = []
    for field in message.fields:
        if field.oneof is not None:
            continue
        optional = syntax == "proto2" and not field.required and field.type not in ("message", "string")
        items.extend([None, literal(field)] if field.repeated or optional else [literal(field)])
    if message.oneofs:
        for member in _first_members(header, names.types[message.full_name]):
            items.extend([None, _oneof_value(schema, names, message, member)])
    return items


def _repair_macro(header: str, message: Message, names: Names, wanted: List[Optional[str]]) -> str:
    name = names.types[message.full_name]
    begin = rf"#define {name.upper}__INIT \\\n \{{ PROTOBUF_C_MESSAGE_INIT \([^)]*\) \\\n    , "
    pattern = re.compile(rf"({begin})(.*)( \}}\n)")
    match = pattern.search(header)
    values = _split(match[2]) if match else []
    if match is None or len(values) != len(wanted):
        raise GeneratorError([f"{message.location}: this protoc-gen-c writes the initial value of {message.full_name} "
                              "in a way that pyproc-gen does not know; use protobuf-c 1.4 or 1.5"])
    for index, better in enumerate(wanted):
        if better is not None:
            values[index] = f" {better}" if index else better
    return header[:match.start(2)] + ",".join(values) + header[match.end(2):]


def _repair_constants(source: str, message: Message, names: Names) -> str:
    prefix = names.types[message.full_name].lower
    for field in message.fields:
        better = literal(field)
        if better is not None:
            symbol = f"{prefix}__{lower(names.fields[(message.full_name, field.name)])}__default_value"
            source = re.sub(rf"(?m)^(static const \S+ {symbol} = ).*;$", lambda found: f"{found[1]}{better};", source)
    return source


def _repair_strings(source: str) -> str:
    return re.sub(r"(?m)^(?:char|uint8_t) \S+__default_value(?:_data)?\[\] = .*;$",
                  lambda found: re.sub(r"\?(?=\?)", r"?\\", found[0]), source)


def repair(schema: Schema, names: Names, texts: Dict[str, str]) -> None:
    """Change the texts that protoc-gen-c wrote, by path, in place."""
    for name in schema.emitted:
        file = schema.files[name]
        header, source = f"{paths.stem(name)}.pb-c.h", f"{paths.stem(name)}.pb-c.c"
        for message in file.all_messages():
            wanted = _initial_values(schema, names, message, texts[header])
            if any(wanted):
                texts[header] = _repair_macro(texts[header], message, names, wanted)
            if any(field.has_default for field in message.fields):
                texts[source] = _repair_strings(_repair_constants(texts[source], message, names))
        if any(field.default in _NON_FINITE for message in file.all_messages() for field in message.fields):
            texts[header] = texts[header].replace(
                "#include <protobuf-c/protobuf-c.h>\n", "#include <math.h>\n#include <protobuf-c/protobuf-c.h>\n", 1)
