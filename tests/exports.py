"""Compares three lists that must be one: what the library exports, its export list, what the headers declare."""
import argparse
import os
import re
import subprocess
import sys
from typing import Set

GENERATED = re.compile(r"^google_+protobuf_")


def exported(library: str) -> Set[str]:
    """The names that the shared library defines for others."""
    lines = subprocess.run(["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True).stdout
    return {line.split()[-1].split("@")[0] for line in lines.splitlines() if line}


def listed(map_file: str) -> Set[str]:
    """The names between `global:` and `local:`; patterns are of generated code."""
    with open(map_file, encoding="utf-8") as file:
        text = re.sub(r"/\*.*?\*/", "", file.read(), flags=re.S)
    section = text.split("global:")[1].split("local:")[0]
    return {name.strip() for name in section.split(";") if name.strip()}


def declared(header: str, compiler: str) -> Set[str]:
    """The functions that the header declares and does not define itself."""
    command = [compiler, "-E", "-std=c11", f"-I{os.path.dirname(header)}", header]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    own = []
    here = False
    for line in text.splitlines():
        marker = re.match(r'# \d+ "(.*)"', line)
        if marker:
            here = marker.group(1) == header
        elif here and not line.startswith("#"):
            own.append(line)
    code = re.sub(r"\bstatic inline\b[^{;]*\{[^}]*\}", ";", " ".join(own))
    code = re.sub(r"\{[^{}]*\}", "", code)
    names = set()
    for statement in code.split(";"):
        statement = re.sub(r"__attribute__\s*\(\(.*?\)\)", "", statement).strip()
        if statement.startswith("typedef"):
            continue
        found = re.search(r"\b(pyproc_\w+)\s*\(|^pyproc_log_callback (pyproc_\w+)$", statement)
        if found:
            names.add(found.group(1) or found.group(2))
    return names


def main() -> int:
    """Command line; one line for each difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("compiler", "library", "map"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--header", action="append", required=True)
    arguments = parser.parse_args()
    names = {
        "exported": {name for name in exported(arguments.library) if not GENERATED.match(name)},
        "in the export list": {name for name in listed(arguments.map) if not GENERATED.match(name)},
        "declared in a header": set().union(*(declared(header, arguments.compiler) for header in arguments.header)),
    }
    wrong = not names["exported"]
    for name in sorted(set().union(*names.values())):
        missing = [place for place, there in names.items() if name not in there]
        if missing:
            wrong = True
            print(f"{name} is not {' and not '.join(missing)}")
    print(f"{'not ok' if wrong else 'ok'} exports: {len(names['exported'])} names")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
