"""The command pyproc-gen."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Dict, List, Optional, Sequence

from pyproc_gen import __version__, generate, load, output, render_python, worker_check
from pyproc_gen.errors import GeneratorError
from pyproc_gen.model import OPTIONS_FILE, WELL_KNOWN_FILES, Schema

_DESCRIPTION = """\
Write typed C stubs and Python handlers for protobuf schemas.

For each FILE, and for each file whose messages it needs, into DIR:
  x.pb-c.h x.pb-c.c          the messages in C (protobuf-c)
  x.pyproc.h x.pyproc.c      the calls: <package>_<service>_<rpc>()
  x_pb2.py x_pb2.pyi         the messages in Python
  x_pyproc.py                the base class of the handlers, and serve()
and once worker.py, the skeleton of your handlers for all services of the FILEs; a file that exists is never
touched, and rpcs that it lacks are named. Only files that change are written.
"""


def default_schema_dir() -> str:
    """The folder that holds pyproc/options.proto, in a source tree or below a prefix; empty when it is not there."""
    here = os.path.dirname(os.path.abspath(__file__))
    for path in ("../../schema", "../../../../include", "../../include"):
        folder = os.path.normpath(os.path.join(here, path))
        if os.path.exists(os.path.join(folder, OPTIONS_FILE)):
            return folder
    return ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pyproc-gen", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit status: 0 done; 1 a schema was refused, or --check found a difference; 2 wrong usage.")
    parser.add_argument("files", nargs="*", metavar="FILE", help=".proto files")
    parser.add_argument("-o", "--out", default=".", metavar="DIR", help="where to write (default: the current folder)")
    parser.add_argument("-I", "--proto_path", dest="includes", action="append", default=[], metavar="DIR",
                        help="import folder; names of output files are relative to it; may be repeated (default: the "
                             "current folder, and that of each FILE which is not below it)")
    parser.add_argument("--worker", metavar="FILE", help="the handlers' file (default: worker.py in the output folder)")
    parser.add_argument("--no-worker", action="store_true", help="neither write nor read a handlers' file")
    parser.add_argument("--no-imports", action="store_true", help="write the files of the FILEs only")
    parser.add_argument("--check", action="store_true",
                        help="write nothing; exit 1 and name the files that would change")
    parser.add_argument("--list", action="store_true",
                        help="write nothing; print the paths of the files that belong to a run")
    parser.add_argument("--depfile", metavar="FILE", help="write what the output depends on, in make's syntax")
    parser.add_argument("--depfile-target", metavar="NAME",
                        help="the target named in the depfile (default: every output)")
    parser.add_argument("--well-known", action="store_true",
                        help="write the C files of protobuf's own types, which libpyproc contains (used to build it)")
    parser.add_argument("--version", action="version", version=f"pyproc-gen {__version__}")
    return parser


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)


def _add_worker(schema: Schema, path: str, out: str, contents: Dict[str, bytes]) -> List[str]:
    """Add the handlers' file where there is none; else return what the one that is there lacks."""
    if not render_python.requested_services(schema):
        return []
    present = output.read(path)
    if present is not None:
        return worker_check.notes(schema, path, present)
    contents[path] = render_python.worker(schema, out, path).encode("utf-8")
    return []


def _run(arguments: argparse.Namespace, schema_dir: str) -> int:
    files = list(arguments.files)
    sources = load.find_sources(files, arguments.includes, schema_dir)
    if arguments.well_known:
        include = load.find_protoc_include()
        if not include:
            raise GeneratorError([f"{WELL_KNOWN_FILES[0]}:1:1: File not found. It comes with protobuf "
                                  "(Debian: libprotobuf-dev)."])
        sources = load.find_sources(WELL_KNOWN_FILES, [include], schema_dir)
    descriptors, warnings = load.run_protoc(sources)
    _say(warnings)
    imports = not arguments.no_imports
    schema = generate.analyse(descriptors.file, sources.names, sources, imports, arguments.well_known)
    if arguments.list:
        for path in generate.outputs(schema, imports, arguments.well_known):
            print(os.path.join(arguments.out, path))
        return 0
    result = generate.generate(schema, descriptors.file, imports, arguments.well_known)
    contents = output.join(arguments.out, result.contents)
    targets = sorted(contents)
    _say(result.notes)
    if not arguments.no_worker and not arguments.well_known:
        worker = arguments.worker or os.path.join(arguments.out, "worker.py")
        _say(_add_worker(schema, worker, arguments.out, contents))
    if arguments.check:
        different = output.changed(contents)
        _say([f"{path}:1:1: this file would change; run pyproc-gen again" for path in different])
        return 1 if different else 0
    output.write_changed(contents)
    if arguments.depfile:
        names = [arguments.depfile_target] if arguments.depfile_target else targets
        read = [path for path in map(sources.path, schema.files) if os.path.exists(path)]
        output.write(arguments.depfile, output.depfile(names, read))
    return 0


def main(argv: Optional[Sequence[str]] = None, schema_dir: str = "") -> int:
    """Run the command; returns its exit status. `schema_dir` holds pyproc/options.proto."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if bool(arguments.files) == arguments.well_known:
        parser.error("name the .proto files" if not arguments.files else "--well-known takes no files")
    try:
        return _run(arguments, schema_dir or default_schema_dir())
    except GeneratorError as error:
        _say(error.lines)
        return 1
    except BrokenPipeError:
        return 1
