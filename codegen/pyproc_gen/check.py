"""What a schema may not say: everything that could not become C that compiles, or Python that imports."""

from __future__ import annotations

import re
from typing import Dict, Iterator, List

from pyproc_gen import paths
from pyproc_gen.errors import Problems
from pyproc_gen.model import File, Message, Method, Retry, Schema, Service

# gRPC's codes, each at its number.
CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)
NEVER_RETRIED = {
    "OK": "is no failure", "CANCELLED": "is what the caller wanted",
    "DEADLINE_EXCEEDED": "leaves no time: the deadline is that of all attempts",
    "INVALID_ARGUMENT": "comes again for the same request", "UNIMPLEMENTED": "comes again for the same request",
}
ATTEMPTS_MIN, ATTEMPTS_MAX = 2, 10
BACKOFF_MAX_MS = 86_400_000
MULTIPLIER_MAX = 10


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


def _retry_problems(retry: Retry) -> Iterator[str]:
    """What is wrong with a policy, without its rpc's name."""
    if not ATTEMPTS_MIN <= retry.max_attempts <= ATTEMPTS_MAX:
        yield f"max_attempts {retry.max_attempts}: give {ATTEMPTS_MIN} to {ATTEMPTS_MAX}, or leave retry out"
    for name, value in (("initial_backoff_ms", retry.initial_backoff_ms), ("max_backoff_ms", retry.max_backoff_ms)):
        if not 1 <= value <= BACKOFF_MAX_MS:
            yield f"{name} {value}: give 1 to {BACKOFF_MAX_MS} milliseconds"
    if retry.max_backoff_ms < retry.initial_backoff_ms:
        yield (f"max_backoff_ms {retry.max_backoff_ms}: give at least initial_backoff_ms, "
               f"{retry.initial_backoff_ms}")
    if not 1 <= retry.backoff_multiplier <= MULTIPLIER_MAX:
        yield f"backoff_multiplier {retry.backoff_multiplier:g}: give 1 to {MULTIPLIER_MAX}"
    for code in retry.codes:
        if code in NEVER_RETRIED:
            yield f"retryable code {code} {NEVER_RETRIED[code]}"
        elif code not in CODES:
            yield (f"retryable code {code!r} is none of gRPC's; allowed are "
                   f"{', '.join(code for code in CODES if code not in NEVER_RETRIED)}")


def _check_retry(method: Method, name: str, problems: Problems) -> None:
    if method.retry is None:
        return
    if method.kind != "unary":
        problems.add(method.retry.location, f"{name} is a stream, which is never made again; leave retry out")
        return
    for problem in _retry_problems(method.retry):
        problems.add(method.retry.location, f"retry of {name}: {problem}")


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
        _check_retry(method, name, problems)
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
