"""Golden cases: the same bytes as expected, C and C++ without a warning, Python that imports."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Dict, List, Set

import pytest
import support
from conftest import Generated

cases = pytest.mark.parametrize("case", support.CASES, ids=str)


@cases
def test_output_is_as_expected(case: support.Case, generated: Generated) -> None:
    expected = support.tree(case.folder / "expected")
    notes = expected.pop("notes.txt")
    found = support.ours(generated.case(case))
    assert sorted(found) == sorted(expected)
    for path, content in expected.items():
        assert found[path].decode() == content.decode(), f"{path} differs; tests/codegen/update_golden.py updates it"
    assert generated.notes[case.name] == notes.decode()


@cases
@pytest.mark.parametrize("compiler", support.COMPILERS)
def test_compiles_without_a_warning(case: support.Case, compiler: str, generated: Generated, well_known: Path) -> None:
    out = generated.case(case)
    support.compile_check(compiler, sorted(out.rglob("*.c")), [out, well_known])


@pytest.mark.parametrize("compiler", support.COMPILERS)
def test_well_known_types_compile(compiler: str, well_known: Path) -> None:
    sources = sorted(well_known.rglob("*.c"))
    assert len(sources) == 22
    support.compile_check(compiler, sources, [well_known])


def undefined_symbols(sources: List[Path], folders: List[Path], scratch: Path) -> Set[str]:
    """What the objects of all sources together still need."""
    lists: Dict[bool, Set[str]] = {True: set(), False: set()}
    for index, source in enumerate(sources):
        target = scratch / f"{index}.o"
        subprocess.run(["gcc", "-std=c11", "-c", str(source), "-o", str(target), f"-I{support.INCLUDE}",
                        *(f"-I{folder}" for folder in folders)], check=True)
        text = subprocess.run(["nm", "-P", str(target)], check=True, stdout=subprocess.PIPE,
                              universal_newlines=True).stdout
        for line in text.splitlines():
            name, kind = line.split()[:2]
            lists[kind == "U"].add(name)
    return lists[True] - lists[False]


@pytest.mark.parametrize("name", ["imports", "types"])
def test_needs_nothing_but_the_library(name: str, generated: Generated, well_known: Path, tmp_path: Path) -> None:
    case = next(case for case in support.CASES if case.name == name)
    out = generated.case(case)
    sources = sorted(out.rglob("*.c")) + sorted(well_known.rglob("*.c"))
    needed = {symbol for symbol in undefined_symbols(sources, [out, well_known], tmp_path)
              if not symbol.startswith("protobuf_c_")}
    assert needed - {"__assert_fail", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"} == {
        "pyproc_call", "pyproc_call_start", "pyproc_call_submit_generated", "pyproc_future_finish_generated"}


@cases
def test_python_imports(case: support.Case, generated: Generated, worker_package: List[Path]) -> None:
    out = generated.case(case)
    modules = [str(path.relative_to(out))[:-3].replace("/", ".") for path in sorted(out.rglob("*.py"))]
    code = "import importlib, pyproc_worker\n" + "".join(
        f"m = importlib.import_module({module!r})\n"
        + ("assert m.serve is pyproc_worker.serve\nassert all(hasattr(m, name) for name in m.__all__)\n"
           if module.endswith("_pyproc") else "")
        for module in modules)
    support.run_python(code, out, *worker_package)


def test_base_class_raises_unimplemented(generated: Generated, worker_package: List[Path]) -> None:
    out = generated.case(support.CASES[4])
    text = support.run_python(
        "import pyproc_worker\n"
        "from quickstart_pyproc import PredictorHandler, PredictRequest\n"
        "class Mine(PredictorHandler):\n    pass\n"
        "try:\n    Mine().predict(PredictRequest(), None)\n"
        "except pyproc_worker.Error as error:\n    print(int(error.code), error)\n", out, *worker_package)
    assert text.strip() == "12 __main__: class Mine has no method predict, which rpc quickstart.Predictor/Predict needs"


def test_every_kind_has_its_c_functions(generated: Generated) -> None:
    header = (generated.case(support.CASES[0]) / "chat.pyproc.h").read_text()
    unary = ("", "_with", "_submit", "_start", "_finish")
    sending, receiving = ("_send", "_send_submit", "_done_sending"), ("_recv", "_recv_submit", "_close")
    kinds = {"say": unary, "history": ("_open", *receiving), "upload": ("_open", *sending, *receiving),
             "converse": ("_open", *sending, *receiving), "get_httpinfo": unary}
    assert re.findall(r"^(?:int|void) (\w+)\(", header, re.MULTILINE) == [
        f"acme_chat_v1_chat_room_{rpc}{suffix}" for rpc, suffixes in kinds.items() for suffix in suffixes]
    for rpc in kinds:
        assert f"extern const pyproc_method acme_chat_v1_chat_room_{rpc}_method;" in header
        assert f"typedef void acme_chat_v1_chat_room_{rpc}_done(int result," in header


def test_imports_for_options_cost_c_nothing(generated: Generated) -> None:
    out = generated.case(support.CASES[1])
    headers = {str(path.relative_to(out)) for path in out.rglob("*.h")}
    assert headers == {f"{stem}.{kind}.h" for kind in ("pb-c", "pyproc")
                       for stem in ("acme/a/service-one", "acme/b/service", "common/deep", "common/shared")}
    for path in out.rglob("*.[ch]"):
        assert "annotations" not in path.read_text()


def test_every_reply_says_how_it_is_freed(generated: Generated) -> None:
    given = r"(?:int \w+\([^;]*\*\*ret_(?:reply|message)|typedef void \w+_done\()"
    for case in support.CASES:
        for path in generated.case(case).rglob("*.pyproc.h"):
            text = path.read_text()
            declarations = re.findall(rf"(/\*(?:(?!\*/).)*\*/)\n{given}", text, re.DOTALL)
            assert len(declarations) == sum(map(text.count, ("**ret_reply", "**ret_message", "_done(int")))
            for comment in declarations:
                words = " ".join(re.sub(r"(?m)^ \*", "", comment).split())
                assert re.search("ree the (reply|message) with pyproc_reply_free and with nothing else", words)
