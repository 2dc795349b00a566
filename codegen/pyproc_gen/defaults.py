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
from pyproc_gen.model import Enum, Field, File, Message, Schema
from pyproc_gen.names import Names, c_member, lower

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


def _first_members(header: str) -> Dict[str, List[str]]:
    """Struct -> the first member of each of its unions: protobuf-c 1.5 sorts them, 1.4 does not."""
    found: Dict[str, List[str]] = {}
    for struct in re.finditer(r"(?ms)^struct  ?(\w+)\n\{\n(.*?)^\};\n", header):
        unions = re.findall(r"(?ms)^  union \{\n(.*?)^  \};\n", struct[2])
        found[struct[1]] = [re.findall(r"(\w+);", union)[0] for union in unions]
    return found


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


def _initial_values(schema: Schema, names: Names, message: Message, unions: List[str]) -> List[Optional[str]]:
    """For each item of a message's `__INIT` behind the base what it should be; None where it is right."""
    syntax = schema.files[schema.homes[message.full_name]].syntax
    items: List[Optional[str]] = []
    for field in message.fields:
        if field.oneof is not None:
            continue
        optional = syntax == "proto2" and not field.required and field.type not in ("message", "string")
        items.extend([None, literal(field)] if field.repeated or optional else [literal(field)])
    for member in unions:
        items.extend([None, _oneof_value(schema, names, message, member)])
    return items


def _repair_macros(header: str, wanted: Dict[str, List[Optional[str]]]) -> str:
    """Replace values in the `__INIT` macros named in `wanted`, which loses those that were found as expected."""

    def better(match: "re.Match[str]") -> str:
        values = _split(match[3])
        if len(values) != len(wanted.get(match[2], [])):
            return match[0]
        for index, text in enumerate(wanted.pop(match[2])):
            if text is not None:
                values[index] = f" {text}" if index else text
        return match[1] + ",".join(values) + match[4]

    begin = r"#define (\w+__INIT) \\\n \{ PROTOBUF_C_MESSAGE_INIT \([^)]*\) \\\n    , "
    return re.sub(rf"({begin})(.*)( \}}\n)", better, header)


def _constants(message: Message, names: Names) -> Dict[str, str]:
    """Constant of a field's descriptor -> what it should be."""
    prefix = names.types[message.full_name].lower
    found: Dict[str, str] = {}
    for field in message.fields:
        better = literal(field)
        if better is not None:
            found[f"{prefix}__{lower(names.fields[(message.full_name, field.name)])}__default_value"] = better
    return found


def _repair_constants(source: str, constants: Dict[str, str]) -> str:
    return re.sub(r"(?m)^(static const \S+ (\w+) = ).*;$",
                  lambda found: f"{found[1]}{constants[found[2]]};" if found[2] in constants else found[0], source)


def _repair_strings(source: str) -> str:
    return re.sub(r"(?m)^(?:char|uint8_t) \S+__default_value(?:_data)?\[\] = .*;$",
                  lambda found: re.sub(r"\?(?=\?)", r"?\\", found[0]), source)


def _repair_header(schema: Schema, names: Names, file: File, header: str) -> str:
    unions = _first_members(header)
    wanted: Dict[str, List[Optional[str]]] = {}
    owners: Dict[str, Message] = {}
    for message in file.all_messages():
        name = names.types[message.full_name]
        values = _initial_values(schema, names, message, unions.get(name.type, []))
        if any(values):
            wanted[f"{name.upper}__INIT"] = values
            owners[f"{name.upper}__INIT"] = message
    header = _repair_macros(header, wanted)
    if wanted:
        message = owners[next(iter(wanted))]
        raise GeneratorError([f"{message.location}: this protoc-gen-c writes the initial value of {message.full_name} "
                              "in a way that pyproc-gen does not know; use protobuf-c 1.4 or 1.5"])
    if any(field.default in _NON_FINITE for message in file.all_messages() for field in message.fields):
        own = "#include <protobuf-c/protobuf-c.h>\n"
        header = header.replace(own, f"#include <math.h>\n{own}", 1)
    return header


def repair(schema: Schema, names: Names, texts: Dict[str, str]) -> None:
    """Change the texts that protoc-gen-c wrote, by path, in place."""
    for name in schema.emitted:
        file = schema.files[name]
        header, source = f"{paths.stem(name)}.pb-c.h", f"{paths.stem(name)}.pb-c.c"
        texts[header] = _repair_header(schema, names, file, texts[header])
        if any(field.has_default for message in file.all_messages() for field in message.fields):
            constants: Dict[str, str] = {}
            for message in file.all_messages():
                constants.update(_constants(message, names))
            texts[source] = _repair_strings(_repair_constants(texts[source], constants))
