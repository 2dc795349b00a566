"""The documentation is true: its C compiles, its quick start runs, its limits are the library's, its links work.

PYPROC_TEST_BUILD names the build folder; PYPROC_PYTHON the Python of the workers, by default the one that runs this.
"""
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

import pytest

SOURCE = Path(__file__).resolve().parents[2]
HEADER = SOURCE / "runtime/include/pyproc.h"
DOCUMENTS = [*(SOURCE / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
             *sorted((SOURCE / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]

Snippet = Tuple[str, str]  # where it stands, and its text


def snippets(path: Path, language: str) -> List[Snippet]:
    """The fenced blocks of a document, or of a header's comments."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".h":
        text = re.sub(r"^ \* ?", "", text, flags=re.M)
    found = [code for kind, code in FENCED.findall(text) if kind == language]
    return [(f"{path.name}-{number}", code) for number, code in enumerate(found, 1)]


def all_of(language: str) -> List[Snippet]:
    """The blocks in a language of all that users read."""
    return [snippet for path in [HEADER, *DOCUMENTS] for snippet in snippets(path, language)]


def is_program(code: str) -> bool:
    """Whether a snippet is a program, not the inside of a function."""
    return re.search(r"\bmain\s*\(", code) is not None


def whole(code: str) -> str:
    """A file to compile around a snippet, which is given a `pool` where it is no program."""
    if is_program(code):
        return code
    return ("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include \"quickstart.pyproc.h\"\n"
            "int example(pyproc_pool *pool);\n"
            f"int example(pyproc_pool *pool) {{\n(void)pool;\n{code}\nreturn 0;\n}}\n")


class Build:
    """A build folder, and how programs are made against it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        text = (folder / "CMakeCache.txt").read_text(encoding="utf-8")
        self.cache: Dict[str, str] = dict(re.findall(r"^(\w+):\w+=(.*)$", text, re.M))
        # The sanitizers' Python loads their library first, which no compiler should.
        self.environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        self.environment.setdefault("PYPROC_PYTHON", sys.executable)

    def run(self, command: List[str], cwd: Path) -> str:
        """Runs a command that has to succeed; returns what it printed."""
        done = subprocess.run(command, cwd=cwd, env=self.environment, check=False, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, f"{shlex.join(command)}: exit status {done.returncode}\n{done.stdout}"
        return done.stdout

    def generate(self, schema: str, folder: Path, *options: str) -> str:
        """Runs the build's generator."""
        return self.run([str(self.folder / "bin/pyproc-gen"), schema, *options], folder)

    def flags(self, *names: str) -> List[str]:
        """What pkg-config says of a library."""
        return shlex.split(self.run(["pkg-config", *names, "libprotobuf-c"], SOURCE))

    def compiler(self, language: str) -> List[str]:
        """The compiler with its flags."""
        variable, standard = ("CMAKE_C_COMPILER", "c11") if language == "c" else ("CMAKE_CXX_COMPILER", "c++17")
        command = self.cache.get(variable) or shutil.which("c++")
        if not command:
            pytest.skip("there is no C++ compiler")
        return [command, f"-std={standard}", "-x", language, *self.flags("--cflags"), "-Igen",
                f"-I{SOURCE / 'runtime/include'}", f"-I{self.folder / 'runtime/well-known'}"]

    def link(self, source: str, program: str, cwd: Path) -> None:
        """Compiles a program with what was generated beside it."""
        sanitize = {"address": ["-fsanitize=address,undefined"], "thread": ["-fsanitize=thread"]}
        library = self.folder / "lib"
        generated = [str(path.relative_to(cwd)) for path in sorted((cwd / "gen").glob("*.c"))]
        self.run([*self.compiler("c"), *WARNINGS, *sanitize.get(self.cache.get("PYPROC_SANITIZE", ""), []),
                  "-o", program, source, *generated, "-x", "none", f"-L{library}", f"-Wl,-rpath,{library}", "-lpyproc",
                  *self.flags("--libs")], cwd)


@pytest.fixture(name="build", scope="module")
def build_fixture() -> Build:
    """The build under test."""
    return Build(Path(os.environ["PYPROC_TEST_BUILD"]).resolve())


@pytest.fixture(name="work")
def work_fixture() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="pyproc-docs.") as folder:
        yield Path(folder)


@pytest.fixture(name="stubs", scope="module")
def stubs_fixture(build: Build) -> Iterator[Path]:
    """A folder in which the README's schema was generated."""
    with tempfile.TemporaryDirectory(prefix="pyproc-docs.") as name:
        folder = Path(name)
        for name, containing in (("quickstart", "service Predictor"), ("talk", "service Room")):
            (folder / f"{name}.proto").write_text(readme("proto", containing), encoding="utf-8")
            build.generate(f"{name}.proto", folder, "--out", "gen", "--worker", f"{name}_worker.py")
        yield folder


def readme(language: str, containing: str) -> str:
    """The one block of the README in that language that contains a text."""
    found = [code for _, code in snippets(SOURCE / "README.md", language) if containing in code]
    assert len(found) == 1, f"README.md has {len(found)} blocks in {language} with {containing!r}"
    return found[0]


@pytest.mark.parametrize("language", ["c", "c++"])
@pytest.mark.parametrize("code", [pytest.param(code, id=name) for name, code in all_of("c")])
def test_snippet_compiles(build: Build, stubs: Path, code: str, language: str) -> None:
    """Every C snippet is clean as C11 and as C++17."""
    flags = WARNINGS if is_program(code) else [*WARNINGS, "-Wno-unused"]
    source = stubs / ("snippet.c" if language == "c" else "snippet.cc")
    source.write_text(whole(code), encoding="utf-8")
    build.run([*build.compiler(language), *flags, "-fsyntax-only", source.name], stubs)


def test_quick_start_runs(build: Build, work: Path) -> None:
    """The README's steps, command by command, and the header's program print 84; their loops dispatch callbacks."""
    (work / "quickstart.proto").write_text(readme("proto", "service Predictor"), encoding="utf-8")
    command = shlex.split(readme("sh", "pyproc-gen"))
    assert command == ["pyproc-gen", "quickstart.proto", "--out", "gen"]
    build.generate("quickstart.proto", work, *command[2:])
    assert (work / "gen/worker.py").exists()
    (work / "gen/worker.py").write_text(readme("python", "PredictorHandler"), encoding="utf-8")
    programs = {"readme": readme("c", "static void die"),
                "header": next(code for _, code in snippets(HEADER, "c") if is_program(code))}
    for name, code in programs.items():
        (work / f"{name}.c").write_text(code, encoding="utf-8")
        build.link(f"{name}.c", name, work)
        assert build.run([f"./{name}"], work) == "84\n"
    loops = {"readme_loop": readme("c", "struct pollfd readable"),
             "header_loop": next(code for _, code in snippets(HEADER, "c") if "pyproc_pool_fd" in code)}
    for name, code in loops.items():
        (work / f"{name}.c").write_text(code, encoding="utf-8")
        build.link(f"{name}.c", name, work)
        assert sorted(build.run([f"./{name}"], work).split(), key=int) == [str(2 * number) for number in range(8)]


def test_schema_less_example_runs(build: Build, work: Path) -> None:
    """The README's example without a schema."""
    (work / "worker.py").write_text(readme("python", "@expose"), encoding="utf-8")
    (work / "main.c").write_text(readme("c", "script = \"worker.py\""), encoding="utf-8")
    build.link("main.c", "main", work)
    assert build.run(["./main"], work) == "{\"result\":84}\n"


def test_streams_run(build: Build, work: Path) -> None:
    """The README's schema, handlers and program of streams."""
    schema = readme("proto", "service Room")
    assert schema == (SOURCE / "tests/programs/talk.proto").read_text(encoding="utf-8")
    (work / "talk.proto").write_text(schema, encoding="utf-8")
    build.generate("talk.proto", work, "--out", "gen")
    (work / "gen/worker.py").write_text(readme("python", "RoomHandler"), encoding="utf-8")
    (work / "main.c").write_text(readme("c", "talk.pyproc.h"), encoding="utf-8")
    build.link("main.c", "main", work)
    assert build.run(["./main"], work) == "to\nbe\nor\n3\nTHAT IS\n"


def test_the_daemon_is_the_tested_one() -> None:
    """The README's program for production and its configuration are those that tests/programs/daemon.py drives."""
    programs = SOURCE / "tests/programs"
    assert readme("c", "signalfd") == (programs / "daemon.c").read_text(encoding="utf-8")
    assert readme("yaml", "workers:") == (programs / "daemon.yaml").read_text(encoding="utf-8")


SUPERVISION = re.compile(r'#include "(worker|launch|spawn|roster|framed\w*|private_dir|method_table|shape|zygote|'
                         r'poison|process_limits)\.h"')
LITERAL = r'(?:"(?:[^"\\\n]|\\.)*"|PRI[a-z]64)'
NO_LINES = {"connection closed", "the host died"}  # what a handler is told of its cancel


def texts_of(path: Path) -> List[str]:
    """The texts in a C file that are made of words, each with what is between its parts taken out."""
    code = re.sub(r"/\*.*?\*/|^#.*?$", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
    joined = ["".join(re.findall(r'"((?:[^"\\]|\\.)*)"', text)).replace('\\"', '"').replace("\\n", "")
              for text in re.findall(rf"{LITERAL}(?:\s+{LITERAL})*", code)]
    return [text for text in joined if re.search(r"[a-z]{2} |[a-z]{3}.* [a-z]{2}", text)]


def is_told(text: str, told: List[str]) -> bool:
    """Whether one of the lines is what a format makes, whatever stands for its conversions."""
    parts = re.split(r"%[-+ #0]*[\d*]*(?:\.[\d*]+)?(?:hh|h|ll|l|z)?[a-z]?", " ".join(text.split()))
    pattern = re.compile(".*".join(re.escape(part) for part in parts))
    return any(pattern.search(line) for line in told)


def test_the_runbook_has_all_lines() -> None:
    """docs/ops.md has every text that supervision may log, every event, every code and every figure of health."""
    page = (SOURCE / "docs/ops.md").read_text(encoding="utf-8")
    told = [" ".join(line.split()) for line in re.findall(r"`([^`]+)`", page)]
    sources = [(path, path.read_text(encoding="utf-8")) for path in sorted((SOURCE / "runtime/src").glob("*.c"))]
    files = [path for path, code in sources if SUPERVISION.search(code) or "log_write(" in code]
    assert len(files) > 10
    texts = [(path.name, text) for path in [*files, SOURCE / "worker/src/control.c"] for text in texts_of(path)
             if text not in NO_LINES]
    assert len(texts) > 80
    missing = [f"{name}: {text}" for name, text in texts if not is_told(text, told)]
    assert not missing, "docs/ops.md does not tell of:\n" + "\n".join(missing)
    header = HEADER.read_text(encoding="utf-8")
    names = re.findall(r"^  (PYPROC_(?:E|EVENT)_\w+)", header, re.M)
    names += re.findall(r"^  int64_t (\w+);.*$", header.split("typedef struct pyproc_health {")[1].split("}")[0], re.M)
    assert len(names) > 25
    assert not [name for name in names if f"`{name}`" not in page]


INSIDES = {  # what the README's snippets that are no programs print, by a word that each has alone
    "options.timeout_ms = 200": "",
    "x-tenant": "",
    "pyproc_error_traceback": "-: the worker has no method predict: expose a function of that name\n"
                              "it has not begun: trying again is safe\n",
    "quickstart_predictor_predict_start": "0\n2\n4\n6\n",
    "pyproc_pool_health": "1 of 1 workers ready, 0 calls wait\n",
    "options.target": "",
}


def test_other_snippets_run(build: Build, work: Path) -> None:
    """Each of the README's other snippets, in a program that opens a pool for it."""
    (work / "quickstart.proto").write_text(readme("proto", "service Predictor"), encoding="utf-8")
    build.generate("quickstart.proto", work, "--out", "gen")
    (work / "gen/worker.py").write_text(readme("python", "PredictorHandler"), encoding="utf-8")
    codes = [code for _, code in snippets(SOURCE / "README.md", "c") if not is_program(code)]
    assert len(codes) == len(INSIDES)
    for word, expected in INSIDES.items():
        (work / "main.c").write_text(
            whole(readme("c", word)) + "int main(void) {\n  pyproc_pool_options o = PYPROC_POOL_OPTIONS_INIT;\n"
            "  pyproc_pool *p = NULL;\n  o.script = \"gen/worker.py\";\n  o.workers = 1;\n"
            "  if (pyproc_pool_open(&o, &p, NULL) < 0) return 1;\n  int failed = example(p) < 0;\n"
            "  pyproc_pool_close(p);\n  return failed;\n}\n", encoding="utf-8")
        build.link("main.c", "main", work)
        assert build.run(["./main"], work) == expected, word


def limits() -> List[Tuple[str, int, int, int, str]]:
    """The README's table of options: name, default (0: not a constant), lowest, highest, what else is allowed."""
    section = (SOURCE / "README.md").read_text(encoding="utf-8").split("\n## Limits\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)`[^|]*\| (\w+) \| (-?\d+) \| (\d+) \|([^|]*)\|$", section, re.M)
    assert rows
    return [(name, int(default) if default.isdigit() else 0, int(lowest), int(highest), besides)
            for name, default, lowest, highest, besides in rows]


def test_limits_are_the_librarys(build: Build, work: Path) -> None:
    """The README's table says what the library says of a value that is out of range; no numeric option is left out."""
    rows = limits()
    text = re.search(r"typedef struct pyproc_pool_options \{.*?^\} pyproc_pool_options;",
                     HEADER.read_text(encoding="utf-8"), re.M | re.S)
    assert text is not None
    numeric = set(re.findall(r"^  int64_t (\w+);", text.group(0), re.M))
    assert {row[0] for row in rows} == numeric
    tries = "".join(
        f"  options = original;\n  options.{name} = -77;\n"
        "  if (pyproc_pool_open(&options, &pool, &error) >= 0) return 1;\n"
        "  puts(pyproc_error_message(error));\n  pyproc_error_free(error);\n" for name, *_ in rows)
    (work / "main.c").write_text(
        "#include <pyproc.h>\n#include <stdio.h>\nint main(void) {\n"
        "  pyproc_pool_options options, original = PYPROC_POOL_OPTIONS_INIT;\n  pyproc_pool *pool = NULL;\n"
        f"  pyproc_error *error = NULL;\n  original.script = \"worker.py\";\n{tries}  return 0;\n}}\n",
        encoding="utf-8")
    build.link("main.c", "main", work)
    expected = []
    for name, default, lowest, highest, besides in rows:
        more = "".join(f", PYPROC_{word}" for word in ("OFF", "UNLIMITED") if f"`{word}`" in besides)
        expected.append(f"option {name} is -77; allowed are {lowest} to {highest}, 0 (default {default}){more}")
    assert build.run(["./main"], work).splitlines() == expected


def test_the_page_of_options_is_the_librarys(build: Build) -> None:
    """docs/options.md is what the library's table prints."""
    printed = build.run([str(build.folder / "bin/print_options")], SOURCE)
    assert (SOURCE / "docs/options.md").read_text(encoding="utf-8") == printed, \
        "write it again: build/bin/print_options >docs/options.md"


def test_every_declaration_is_documented() -> None:
    """A comment stands above every function of the header, and above or behind every member and enumerator."""
    lines = HEADER.read_text(encoding="utf-8").splitlines()
    bare = []
    functions = 0
    for number, line in enumerate(lines):
        if re.match(r"(const )?\w+ \*?pyproc_\w+\(|pyproc_log_callback pyproc_", line):
            functions += 1
            if not lines[number - 1].endswith("*/"):
                bare.append(line)
        member = re.match(r"  (PYPROC_\w+( = -?\d+)?,?|(const )?\w+ [\w* ]+;)", line)
        if member and "*/" not in line and not lines[number - 1].endswith(("*/", "\\")):
            bare.append(line)
    assert functions > 20
    assert not bare


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in DOCUMENTS])
def test_links_lead_somewhere(path: Path) -> None:
    """Links to files and to headings of the same page."""
    text = path.read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    headings = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, f"{path.name}: no heading {target}"
        elif "://" not in target:
            assert (path.parent / target).exists(), f"{path.name}: no file {target}"


def test_make_targets_exist() -> None:
    """Every `make x` of the documentation is a target."""
    targets = set(re.findall(r"^([a-z0-9-]+):", (SOURCE / "Makefile").read_text(encoding="utf-8"), re.M))
    named = {name for path in DOCUMENTS for name in re.findall(r"`make ([a-z0-9-]+)", path.read_text(encoding="utf-8"))}
    named |= {name for _, code in all_of("sh") for name in re.findall(r"^make ([a-z0-9-]+)", code, re.M)}
    assert {"demo", "test", "install"} <= named
    assert named <= targets
