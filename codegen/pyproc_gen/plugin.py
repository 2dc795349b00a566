"""The protoc plugin protoc-gen-pyproc: `protoc --pyproc_out=DIR x.proto`.

It writes what pyproc-gen writes but for worker.py, since protoc overwrites what is there. The parameter `no_imports`
(`--pyproc_opt=no_imports`) leaves out imported files.
"""

from __future__ import annotations

import sys
from typing import Optional

from google.protobuf.compiler import plugin_pb2
from google.protobuf.message import DecodeError

from pyproc_gen import generate, load
from pyproc_gen.errors import GeneratorError


def _answer(request: plugin_pb2.CodeGeneratorRequest, response: plugin_pb2.CodeGeneratorResponse) -> None:
    options = [option for option in request.parameter.split(",") if option]
    for option in options:
        if option != "no_imports":
            raise GeneratorError([f"pyproc-gen: unknown parameter {option!r}; the only one is no_imports"])
    imports = not options
    sources = load.Sources((), tuple(request.file_to_generate), (), {})
    schema = generate.analyse(request.proto_file, request.file_to_generate, sources, imports, False)
    result = generate.generate(schema, request.proto_file, imports, False)
    for line in result.notes:
        print(line, file=sys.stderr)
    for path in sorted(result.contents):
        response.file.add(name=path, content=result.contents[path].decode("utf-8"))


def main(schema_dir: Optional[str] = None) -> int:
    """Answer the request on standard input; returns the exit status. `schema_dir` is not needed: protoc has parsed."""
    del schema_dir
    response = plugin_pb2.CodeGeneratorResponse()
    response.supported_features = plugin_pb2.CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
    request = plugin_pb2.CodeGeneratorRequest()
    try:
        request.ParseFromString(sys.stdin.buffer.read())
        _answer(request, response)
    except DecodeError:
        print("protoc-gen-pyproc: this is a plugin that protoc runs: protoc --pyproc_out=DIR FILE", file=sys.stderr)
        return 1
    except GeneratorError as error:
        response.error = "\n".join(error.lines)
    sys.stdout.buffer.write(response.SerializeToString())
    return 0


if __name__ == "__main__":
    sys.exit(main())
