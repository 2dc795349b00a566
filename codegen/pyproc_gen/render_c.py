"""Our C files: `<file>.pyproc.h` and `<file>.pyproc.c`."""

from __future__ import annotations

from typing import Any, Dict, List

from pyproc_gen import paths, protobuf_c, shape
from pyproc_gen.check import CODES
from pyproc_gen.model import Field, File, Message, Method, Retry, Schema, Service
from pyproc_gen.names import Names
from pyproc_gen.render import render

# The layout of pyproc_generated.h that is written for.
TABLE_VERSION = 1

_WELL_KNOWN = {
    "Any": "ANY", "Timestamp": "TIMESTAMP", "Duration": "DURATION", "Struct": "STRUCT", "Value": "VALUE",
    "ListValue": "LIST_VALUE", "Empty": "EMPTY", "FieldMask": "FIELD_MASK",
    **{f"{kind}Value": "WRAPPER"
       for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")},
}


_SHAPES = {
    "server_stream": "a request, then messages of the handler",
    "client_stream": "messages to the handler, then one of the handler",
    "bidi": "messages both ways",
}


def _well_known(full_name: str) -> str:
    package, _, name = full_name.rpartition(".")
    return "PYPROC_WELL_KNOWN_" + (_WELL_KNOWN.get(name, "NONE") if package == "google.protobuf" else "NONE")


def _c_text(text: str) -> str:
    """What stands between the quotes of a C string; octal, since hexadecimal escapes have no end."""
    return "".join(chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
                   for byte in text.encode("utf-8"))


def _comment(*paragraphs: str) -> str:
    """A C comment of some paragraphs."""
    lines = "\n\n".join(paragraph for paragraph in paragraphs if paragraph).splitlines()
    safe = [line.replace("*/", "* /").replace("/*", "/ *").replace("??", "? ?").rstrip("\\").rstrip() for line in lines]
    if len(safe) == 1:
        return f"/* {safe[0]} */"
    return "/* " + "\n".join(f" * {line}".rstrip() if index else line for index, line in enumerate(safe)) + "\n */"


def _retry(retry: Retry) -> Dict[str, str]:
    """The values of a retry policy's table."""
    codes = sorted({CODES.index(code) for code in retry.codes})
    return {
        "max_attempts": str(retry.max_attempts), "initial_backoff_ms": str(retry.initial_backoff_ms),
        "max_backoff_ms": str(retry.max_backoff_ms),
        "multiplier_permille": str(round(retry.backoff_multiplier * 1000)),
        "codes": " | ".join(f"UINT64_C(1) << {code}" for code in codes),
        "code_names": ", ".join(CODES[code] for code in codes),
    }


def _call_comments(rpc: str, method: Method) -> Dict[str, str]:
    """The comments above the functions of a unary rpc."""
    timeout = f"{method.timeout_ms} ms, from the schema" if method.timeout_ms else "the pool's call_timeout_ms"
    return {
        "comment": _comment(
            method.comment,
            f"Calls {rpc} and waits for its reply; timeout: {timeout}. From any thread.\n"
            f"{_attempts(method)}"
            "Returns PYPROC_OK and sets *ret_reply, or a negative PYPROC_E* and sets *reterr if it is given;\n"
            "what is not set stays untouched. Free the reply with pyproc_reply_free and with nothing else, the\n"
            "error with pyproc_error_free."),
        "done_comment": _comment(
            f"How a submitted call of {rpc} ends: `reply` or `error`, the other one is NULL.\n"
            "Both are the callback's: free the reply with pyproc_reply_free and with nothing else, the error with\n"
            "pyproc_error_free."),
        "with_comment": _comment("The same with options for this call, or NULL. Free the reply with "
                                 "pyproc_reply_free and with nothing else."),
        "submit_comment": _comment(
            "Sends the call and returns. 0: `done` runs exactly once, in pyproc_pool_dispatch or "
            "pyproc_pool_close;\n"
            "a negative PYPROC_E*: never. Request and options, which may be NULL, are copied. From any thread."),
        "start_comment": _comment("Sends the call and returns a future for its reply; free that with "
                                  "pyproc_future_free. Else as _submit."),
        "finish_comment": _comment(
            "Takes the result of a call that _start has sent, once; waits for it where it must. Free the reply\n"
            "with pyproc_reply_free and with nothing else, then the future."),
    }


def _attempts(method: Method) -> str:
    """A line about a retry policy."""
    if method.retry is None:
        return ""
    where = "" if method.idempotent else ", where it certainly did not run"
    return f"Made up to {method.retry.max_attempts} times in all on {_retry(method.retry)['code_names']}{where}.\n"


def _stream_comments(rpc: str, method: Method) -> Dict[str, str]:
    """The comments above the functions of a stream."""
    deadline = f"Ends after {method.timeout_ms} ms, from the schema" if method.timeout_ms else "Has no deadline"
    given = "Request and options, which may be NULL, are copied." if method.kind == "server_stream" \
        else "Options, which may be NULL, are copied."
    messages = "the next message" if method.server_streams else "the one message"
    after = "and the same again from then on" if method.server_streams else "once the one message was given"
    return {
        "done_comment": _comment(
            f"How a submitted receive of {rpc} ends: `result` 1 and `message`, 0 at the end, or negative and\n"
            "`error`; what is not given is NULL. Both are the callback's: free the message with pyproc_reply_free and\n"
            "with nothing else, the error with pyproc_error_free."),
        "open_comment": _comment(
            method.comment,
            f"Opens a stream of {rpc}: {_SHAPES[method.kind]}.\n"
            f"{deadline}, unless the options set another one.\n"
            "Returns PYPROC_OK and sets *ret_stream, which _close gives up, or a negative PYPROC_E* and sets *reterr\n"
            f"if it is given. {given} From any thread."),
        "send_comment": _comment(
            "Sends a message, which is copied; waits while the other side has no room for it. Returns 1: taken;\n"
            "0: the other side has ended the stream and takes nothing more, _recv tells its result; a negative\n"
            "PYPROC_E*: the stream has failed. One thread at a time; another one may receive meanwhile."),
        "send_submit_comment": _comment(
            "Sends a message without waiting. 0: `done` runs exactly once, in pyproc_pool_dispatch or\n"
            "pyproc_pool_close, with the result that _send would have, and an error when that is negative; its reply\n"
            "is always NULL. A negative PYPROC_E*: it never runs. One at a time; the message is copied."),
        "done_sending_comment": _comment(
            "Tells the other side that no more messages follow; receiving goes on. Returns PYPROC_OK, also when the\n"
            "other side has ended the stream or it was told before, or a negative PYPROC_E*."),
        "recv_comment": _comment(
            f"Waits for {messages} of the handler. Returns 1 and sets *ret_message, which is the caller's: free\n"
            f"the message with pyproc_reply_free and with nothing else; 0: the end, {after};\n"
            "or a negative PYPROC_E* and sets *reterr if it is given, the same again from then on. One thread at a\n"
            "time" + ("; another one may send meanwhile." if method.client_streams else ".")),
        "recv_submit_comment": _comment(
            "Receives without waiting. 0: `done` runs exactly once, in pyproc_pool_dispatch or pyproc_pool_close;\n"
            "a negative PYPROC_E*: never. One at a time."),
        "close_comment": _comment(
            "Gives the stream up; one that has not ended is cancelled. NULL is fine, and so is a pool that is closed."),
    }


class _CFile:
    """The values for one schema file's templates."""

    def __init__(self, schema: Schema, names: Names, file: File) -> None:
        self.schema = schema
        self.names = names
        self.file = file

    def _info(self, full_name: str) -> str:
        return f"{self.names.types[full_name].lower}__info"

    def _field(self, field: Field) -> Dict[str, str]:
        flags = []
        if self.schema.is_map(field):
            flags.append("PYPROC_FIELD_MAP")
        if field.type == "enum" and field.type_name == "google.protobuf.NullValue":
            flags.append("PYPROC_FIELD_NULL_VALUE")
        if field.proto3_optional:
            flags.append("PYPROC_FIELD_OPTIONAL")
        return {
            "name": field.name,
            "json_name": _c_text(field.json_name),
            "message": f"&{self._info(field.type_name)}" if field.type == "message" else "NULL",
            "flags": " | ".join(flags) or "0",
        }

    def _message(self, message: Message) -> Dict[str, Any]:
        name = self.names.types[message.full_name].lower
        fields = sorted(message.fields, key=lambda field: field.number)
        return {
            "name": message.full_name, "info": f"{name}__info", "descriptor": f"{name}__descriptor",
            "field_infos": f"{name}__field_infos", "fields": [self._field(field) for field in fields],
            "well_known": _well_known(message.full_name),
        }

    def _method(self, service: Service, method: Method) -> Dict[str, Any]:
        name = self.names.methods[(service.full_name, method.name)]
        comments = _call_comments if method.kind == "unary" else _stream_comments
        return {
            "name": name, "symbol": f"{name}_method", "full_name": f"{service.full_name}/{method.name}",
            "unary": method.kind == "unary", "sends": method.client_streams,
            "request": self.names.types[method.request].type, "reply": self.names.types[method.reply].type,
            "request_info": self._info(method.request), "reply_info": self._info(method.reply),
            "indent": " " * (len("int (") + len(name)), "fingerprint": shape.fingerprint(self.schema, method),
            "kind": f"PYPROC_RPC_{method.kind.upper()}", "timeout_ms": method.timeout_ms,
            "flags": "PYPROC_METHOD_IDEMPOTENT" if method.idempotent else "0",
            "retry": _retry(method.retry) if method.retry else {},
            **comments(f"{service.full_name}/{method.name}", method),
        }

    def _service(self, service: Service) -> Dict[str, Any]:
        prefix = self.names.services[service.full_name]
        return {
            "name": service.full_name, "symbol": f"{prefix}_service", "table": f"{prefix}_methods",
            "comment": _comment(service.comment, f"Service {service.full_name}, for pyproc_pool_options.services."),
            "methods": [self._method(service, method) for method in service.methods],
        }

    def render(self) -> Dict[str, str]:
        """Path -> text."""
        file = self.file
        of_messages = protobuf_c.c_imports(self.schema, file)
        of_services = [name for name in file.type_imports if name not in of_messages]
        values = {
            "file": file.name, "guard": paths.guard(file.name), "version": TABLE_VERSION,
            "header": paths.pyproc_header(file.name),
            "messages": [self._message(message) for message in file.all_messages()],
            "services": [self._service(service) for service in file.services],
        }
        headers: List[str] = [paths.pb_header(name) for name in (file.name, *of_services)]
        tables: List[str] = [paths.pyproc_header(name) for name in file.type_imports]
        return {
            paths.pyproc_header(file.name): render("header.h.j2", includes=headers, **values),
            f"{paths.stem(file.name)}.pyproc.c": render("source.c.j2", includes=tables, **values),
        }


def generate(schema: Schema, names: Names) -> Dict[str, str]:
    """The C files of all schema files that are written: path -> text."""
    texts: Dict[str, str] = {}
    for name in schema.emitted:
        texts.update(_CFile(schema, names, schema.files[name]).render())
    return texts
