"""Compiles what users read: each public header alone, as C11 and C++17, without padding in its structs, and every
example in the header's comments, the README and docs/.

An example is a block fenced by ```c; in a header's comment the fences and the code stand behind ` * `. One with `main(`
is a program, any other the inside of a function that is given a `pool` and the quickstart's stubs.
"""
import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import List, Tuple

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-fsyntax-only"]
FENCED = re.compile(r"^```c(?:pp)?\n(.*?)^```", re.M | re.S)
LANGUAGES = (("c", "-std=c11"), ("c++", "-std=c++17"))


def examples(path: Path) -> List[str]:
    """The fenced blocks of a document or of a header's comments."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".h":
        text = re.sub(r"^ \* ?", "", text, flags=re.M)
    return FENCED.findall(text)


def whole(code: str) -> str:
    """A file to compile around an example."""
    if re.search(r"\bmain\s*\(", code):
        return code
    head = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include \"quickstart.pyproc.h\"\n"
    body = []
    for line in code.splitlines():
        if line.startswith("#include"):
            head += line + "\n"
        else:
            body.append(line)
    head += "void die(pyproc_error *error);\nint example(pyproc_pool *pool);\n"
    return head + "int example(pyproc_pool *pool) {\n(void) pool;\n{\n" + "\n".join(body) + "\n}\nreturn 0;\n}\n"


def compile_text(command: List[str], language: str, text: str) -> str:
    """What the compiler says of a text; empty when it is content."""
    with tempfile.NamedTemporaryFile("w", suffix=".c" if language == "c" else ".cc", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        done = subprocess.run([*command, "-x", language, file.name], check=False, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr or "it failed"


def main() -> int:
    """Command line; one `ok` or `not ok` line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--compiler", required=True)
    parser.add_argument("--include", action="append", default=[])
    parser.add_argument("--headers", action="append", default=[], help="folder whose headers are all compiled")
    arguments = parser.parse_args()
    command = [arguments.compiler, *(f"-I{path}" for path in arguments.include)]
    cases: List[Tuple[str, str, str]] = []
    public = arguments.source / "runtime/include"
    for folder in [public, *map(Path, arguments.headers)]:
        for header in sorted(folder.rglob("*.h")):
            # Generated structs mirror messages and may be padded.
            padded = "" if folder == public else "#pragma GCC diagnostic ignored \"-Wpadded\"\n"
            name = header.relative_to(folder)
            for language, standard in LANGUAGES:
                cases.append((f"{name} as {standard[5:]}", language, f"{padded}#include <{name}>\n"))
    documents = [arguments.source / "README.md", *sorted((arguments.source / "docs").glob("*.md"))]
    for path in filter(Path.exists, [*sorted(public.glob("*.h")), *documents]):
        for number, code in enumerate(examples(path), 1):
            cases.append((f"{path.name} example {number}", "c", whole(code)))
    failed = 0
    for name, language, text in cases:
        standard = dict(LANGUAGES)[language]
        flags = [] if "example" in name else ["-Wpadded", "-Wshadow"]
        unused = ["-Wno-unused"] if "example" in name else []
        complaint = compile_text([*command, standard, *WARNINGS, *flags, *unused], language, text)
        failed += bool(complaint)
        print(f"{'not ok' if complaint else 'ok'} {name}")
        if complaint:
            print(complaint)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
