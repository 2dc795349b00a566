"""What a schema may not say: everything that could not become C that compiles, or Python that imports."""

from __future__ import annotations

import re
from typing import Dict, List

from pyproc_gen import paths
from pyproc_gen.errors import Problems
from pyproc_gen.model import File, Message, Schema, Service

TIMEOUT_MAX_MS = (1 << 63) - 1


def _check_file(file: File, problems: Problems) -> None:
    if file.syntax not in ("proto2", "proto3"):
        problems.add(file.location, f'protobuf-c knows no {file.syntax}; say syntax = "proto3"; or syntax = "proto2";')
    if not re.fullmatch(r"[A-Za-z0-9_./+ @=,-]+\.proto", file.name):
        problems.add(file.location, f"the file name {file.name!r} cannot become names of C and Python files; use "
                                    "letters, digits, '_', '-' and '.', and the ending .proto")
    for part in file.name.split("/"):
        if part in ("", ".", ".."):
            problems.add(file.location, f"the file name {file.name!r} is not below an import folder; name that with -I")


def _check_message(message: Message, problems: Problems) -> None:
    if message.message_set:
        problems.add(message.location, f"message {message.full_name} uses message_set_wire_format, which protobuf-c "
                                       "cannot read; use an ordinary message")
    for field in message.fields:
        if field.type == "group":
            problems.add(field.location, f"field {message.full_name}.{field.name} is a group, which protobuf-c cannot "
                                         "read; use a message field")


def _check_service(service: Service, problems: Problems) -> None:
    if service.c_prefix and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", service.c_prefix):
        problems.add(service.options_location, f"c_prefix {service.c_prefix!r} of service {service.full_name} is no "
                                               "identifier of C")
    elif service.c_prefix and service.c_prefix.lower().startswith("pyproc_") or service.c_prefix == "pyproc":
        problems.add(service.options_location, f"c_prefix {service.c_prefix!r} of service {service.full_name} is kept "
                                               "for the library; choose one that does not begin with pyproc")
    for method in service.methods:
        name = f"rpc {service.full_name}/{method.name}"
        if method.timeout_ms < 0:
            problems.add(method.options_location, f"timeout_ms {method.timeout_ms} of {name} is negative; give "
                                                  "milliseconds, or 0 for the pool's default")
        if method.c_name and not re.fullmatch(r"[A-Za-z0-9_]+", method.c_name):
            problems.add(method.options_location, f"c_name {method.c_name!r} of {name} cannot stand in an identifier "
                                                  "of C")


def _check_outputs(schema: Schema, problems: Problems) -> None:
    owners: Dict[str, File] = {}
    for name in schema.emitted:
        file = schema.files[name]
        outputs: List[str] = [*paths.c_files(name), *paths.python_files(name)]
        for output in outputs:
            other = owners.setdefault(output, file)
            if other is not file:
                problems.add(file.location, f"{file.name} and {other.name} ({other.path}) would both be written to "
                                            f"{output}; rename one of them")
                break


def check(schema: Schema, problems: Problems) -> None:
    """Note everything that is wrong with the files whose code is to be written."""
    for name in schema.requested:
        if name in schema.well_known and name not in schema.emitted:
            problems.add(schema.files[name].location, f"{name} comes with pyproc already: include "
                                                      f"<{paths.pyproc_header(name)}>, and name only your own files")
    for name in schema.emitted:
        file = schema.files[name]
        _check_file(file, problems)
        for message in file.all_messages():
            _check_message(message, problems)
        for service in file.services:
            _check_service(service, problems)
    _check_outputs(schema, problems)
