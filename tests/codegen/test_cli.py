"""The command line: what is written, when, and what is said."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest
import support

QUICKSTART = support.GOLDEN / "quickstart"
FILES = {"quickstart.pb-c.c", "quickstart.pb-c.h", "quickstart.pyproc.c", "quickstart.pyproc.h", "quickstart_pb2.py",
         "quickstart_pb2.pyi", "quickstart_pyproc.py", "worker.py"}


@pytest.fixture(name="project")
def make_project(tmp_path: Path) -> Path:
    """A folder with a copy of the quickstart's schema."""
    shutil.copy(QUICKSTART / "quickstart.proto", tmp_path)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    """Replace text in a file that has it."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_writes_what_help_promises(project: Path) -> None:
    done = support.generate(["quickstart.proto"], project, project / "gen")
    assert set(support.tree(project / "gen")) == FILES
    assert (done.stdout, done.stderr) == ("", "")


def test_writes_into_current_folder_by_default(project: Path) -> None:
    done = support.run_generator(["quickstart.proto"], project)
    assert done.returncode == 0
    assert set(support.tree(project)) == FILES | {"quickstart.proto"}


def test_two_runs_write_the_same(tmp_path: Path) -> None:
    case = support.CASES[1]
    support.generate(case.files, case.folder, tmp_path / "one")
    support.generate(tuple(reversed(case.files)), case.folder, tmp_path / "two")
    one, two = support.tree(tmp_path / "one"), support.tree(tmp_path / "two")
    del one["worker.py"], two["worker.py"]  # its classes stand in the order of the files
    assert one == two


def test_output_does_not_depend_on_other_files_of_the_run(tmp_path: Path) -> None:
    case = support.CASES[1]
    support.generate(case.files, case.folder, tmp_path / "both")
    support.generate(case.files[1:], case.folder, tmp_path / "alone")
    both, alone = support.tree(tmp_path / "both"), support.tree(tmp_path / "alone")
    del alone["worker.py"]
    assert alone.items() <= both.items() and "acme/b/service.pyproc.c" in alone


def test_unchanged_files_keep_their_time(project: Path) -> None:
    gen = project / "gen"
    support.generate(["quickstart.proto"], project, gen)
    for path in gen.iterdir():
        os.utime(path, ns=(1, 1))
    edit(project / "quickstart.proto", "double result = 1;", "double result = 1; string note = 2;")
    support.generate(["quickstart.proto"], project, gen)
    kept = {path.name for path in gen.iterdir() if path.stat().st_mtime_ns == 1}
    assert kept == {"quickstart.pyproc.h", "worker.py"}


def test_worker_is_never_touched(project: Path) -> None:
    worker = project / "gen" / "worker.py"
    support.generate(["quickstart.proto"], project, worker.parent)
    worker.write_text("# mine\n" + worker.read_text())
    mine = worker.read_bytes()
    assert support.generate(["quickstart.proto"], project, worker.parent).stderr == ""
    assert worker.read_bytes() == mine


def test_missing_handlers_are_named(project: Path) -> None:
    gen = project / "gen"
    support.generate(["quickstart.proto"], project, gen)
    edit(project / "quickstart.proto", "service Predictor {",
         "service Other { rpc Ask(PredictRequest) returns (PredictReply); }\nservice Predictor {"
         " rpc Retrain(PredictRequest) returns (PredictReply);")
    assert support.generate(["quickstart.proto"], project, gen).stderr.splitlines() == [
        f"{gen}/worker.py:1:1: note: no class derives from quickstart_pyproc.OtherHandler, which service "
        "quickstart.Other needs",
        f"{gen}/worker.py:1:1: note: class Predictor has no method retrain, which rpc "
        "quickstart.Predictor/Retrain needs"]


@pytest.mark.parametrize("text", [
    "import quickstart_pyproc\nclass A(quickstart_pyproc.PredictorHandler):\n    async def predict(self, r, c): ...\n",
    "import quickstart_pyproc as q\nclass A(q.PredictorHandler):\n    predict = other\n",
    "from quickstart_pyproc import PredictorHandler as P\nclass Base:\n    def predict(self, r, c): ...\n"
    "class A(Base, P):\n    pass\n",
    "from quickstart_pyproc import *\nfrom quickstart_pyproc import PredictorHandler\n"
    "class A(PredictorHandler):\n    pass\nclass B(A):\n    def predict(self, r, c): ...\n",
    "from quickstart_pyproc import *\nclass A(PredictorHandler):\n    def predict(self, r, c): ...\n",
])
def test_handlers_are_found_however_they_are_written(project: Path, text: str) -> None:
    (project / "worker.py").write_text(text)
    assert support.generate(["quickstart.proto"], project, project).stderr == ""


def test_broken_worker_is_left_alone(project: Path) -> None:
    (project / "worker.py").write_text("def broken(:\n")
    done = support.generate(["quickstart.proto"], project, project)
    assert "worker.py:1:1: note: this is not valid Python" in done.stderr


def test_worker_elsewhere_finds_generated_modules(project: Path, worker_package: List[Path]) -> None:
    support.generate(["quickstart.proto"], project, project / "gen", "--worker", str(project / "app" / "mine.py"))
    assert not (project / "gen" / "worker.py").exists()
    support.run_python("import mine; mine.Predictor", project / "app", *worker_package)


def test_no_worker(project: Path) -> None:
    support.generate(["quickstart.proto"], project, project / "gen", "--no-worker")
    assert set(support.tree(project / "gen")) == FILES - {"worker.py"}


def test_check(project: Path) -> None:
    gen = project / "gen"
    done = support.run_generator(["quickstart.proto", "--out", "gen", "--check"], project)
    assert done.returncode == 1 and not gen.exists()
    assert {line.split(":")[0] for line in done.stderr.splitlines()} == {f"gen/{name}" for name in FILES}
    support.generate(["quickstart.proto"], project, gen)
    (gen / "worker.py").write_text("from quickstart_pyproc import *\nclass A(PredictorHandler):\n    predict = None\n")
    done = support.run_generator(["quickstart.proto", "--out", "gen", "--check"], project)
    assert (done.returncode, done.stderr) == (0, "")
    (gen / "quickstart.pyproc.h").write_text("")
    done = support.run_generator(["quickstart.proto", "--out", "gen", "--check"], project)
    assert (done.returncode, done.stderr) == (
        1, "gen/quickstart.pyproc.h:1:1: this file would change; run pyproc-gen again\n")
    assert (gen / "quickstart.pyproc.h").read_text() == ""


def test_depfile(tmp_path: Path) -> None:
    shutil.copytree(support.GOLDEN / "imports", tmp_path / "a b")
    support.generate(["a b/acme/a/service-one.proto"], tmp_path, tmp_path / "gen", "-I", "a b", "--depfile", "gen.d",
                     "--depfile-target", "stamp")
    target, *sources = (tmp_path / "gen.d").read_text().replace("\\\n", "").replace("\\ ", "?").split()
    assert target == "stamp:"
    assert [source for source in sources if source.startswith("a?b")] == [
        f"a?b/{name}.proto" for name in ("common/deep", "acme/b/service", "common/note", "common/annotations",
                                         "common/shared", "common/everything", "acme/a/service-one")]
    assert all(os.path.exists(source.replace("?", " ")) or os.path.exists(tmp_path / source.replace("?", " "))
               for source in sources)


def test_depfile_names_all_outputs(project: Path) -> None:
    support.generate(["quickstart.proto"], project, Path("gen"), "--depfile", "deps/gen.d")
    targets = (project / "deps" / "gen.d").read_text().replace("\\\n", "").split(":")[0].split()
    assert set(targets) == {f"gen/{name}" for name in FILES - {"worker.py"}}


@pytest.mark.parametrize("case", support.CASES, ids=str)
def test_list_names_what_is_written(case: support.Case, tmp_path: Path) -> None:
    listed = support.generate(case.files, case.folder, tmp_path / "gen", "--list").stdout.splitlines()
    assert not (tmp_path / "gen").exists()
    support.generate(case.files, case.folder, tmp_path / "gen", "--no-worker")
    assert listed == sorted(f"{tmp_path}/gen/{path}" for path in support.tree(tmp_path / "gen"))


def test_no_imports(tmp_path: Path) -> None:
    case = support.CASES[1]
    support.generate(case.files[:1], case.folder, tmp_path, "--no-imports", "--no-worker")
    assert {path.split(".")[0] for path in support.tree(tmp_path)} == {
        "acme/a/service-one", "acme/a/service_one_pb2", "acme/a/service_one_pyproc"}


def test_import_folders(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "a.proto").write_text('syntax = "proto3"; import "b.proto"; message A { B b = 1; }')
    (tmp_path / "two" / "b.proto").write_text('syntax = "proto3"; message B { Missing m = 1; }')
    done = support.run_generator(["-I", "one", "-Itwo", "one/a.proto", "--out", "gen"], tmp_path)
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, 'two/b.proto:1:32: "Missing" is not defined.')
    (tmp_path / "two" / "b.proto").write_text('syntax = "proto3"; message B {}')
    support.generate(["a.proto"], tmp_path, tmp_path / "gen", "-I", "one", "--proto_path", str(tmp_path / "two"))
    assert {path.split(".")[0] for path in support.tree(tmp_path / "gen")} == {
        "a", "a_pb2", "a_pyproc", "b", "b_pb2", "b_pyproc"}


def test_file_outside_the_current_folder(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    support.generate([str(project / "quickstart.proto")], elsewhere, elsewhere / "gen")
    assert set(support.tree(elsewhere / "gen")) == FILES


@pytest.mark.parametrize("arguments, status, text", [
    (["missing.proto"], 1, "missing.proto:1:1: there is no such file, neither here nor in an import folder (.)"),
    (["."], 1, ".:1:1: this is a folder; name the .proto files in it"),
    (["-I", "nowhere", "quickstart.proto"], 1, "pyproc-gen: -I nowhere: no such folder"),
    (["-I", "sub", "quickstart.proto"], 1, "quickstart.proto:1:1: the file is in none of the import folders (sub); "
                                           "name its folder with -I"),
    (["--out", "quickstart.proto", "quickstart.proto"], 1, "cannot be "),
    (["google/protobuf/empty.proto"], 1, "google/protobuf/empty.proto comes with pyproc already"),
    ([], 2, "name the .proto files"),
    (["--no-such-option", "quickstart.proto"], 2, "--no-such-option"),
])
def test_errors(project: Path, arguments: List[str], status: int, text: str) -> None:
    (project / "sub").mkdir()
    done = support.run_generator(arguments, project)
    assert done.returncode == status and text in done.stderr


def test_missing_tools_are_named(project: Path) -> None:
    done = support.run_generator(["quickstart.proto"], project, {"PATH": str(project)})
    assert (done.returncode, done.stderr) == (
        1, "pyproc-gen: protoc is not on PATH; install it (Debian: protobuf-compiler)\n")
    protoc = shutil.which("protoc")
    assert protoc is not None
    (project / "protoc").symlink_to(protoc)
    done = support.run_generator(["quickstart.proto"], project, {"PATH": str(project)})
    assert (done.returncode, done.stderr) == (
        1, "pyproc-gen: protoc-gen-c is not on PATH; install it (Debian: protobuf-c-compiler)\n")
    assert set(support.tree(project)) == {"quickstart.proto", "protoc"}


def test_warnings_have_a_place(tmp_path: Path) -> None:
    (tmp_path / "email").mkdir()
    (tmp_path / "email" / "x.proto").write_text("message X {}")
    lines = support.generate(["email/x.proto"], tmp_path, tmp_path / "gen").stderr.splitlines()
    assert lines[0].startswith("email/x.proto:1:1: warning: No syntax specified")
    assert lines[1:] == ["email/x.proto:1:1: note: Python's own module email hides the folder email; name that with "
                         "-I, so that it does not become part of the names"]


def test_version_and_help(project: Path) -> None:
    assert support.run_generator(["--version"], project).stdout.startswith("pyproc-gen 0.")
    assert "worker.py" in support.run_generator(["--help"], project).stdout


@pytest.mark.parametrize("case", support.CASES, ids=str)
def test_plugin_writes_the_same(case: support.Case, tmp_path: Path) -> None:
    plugin = tmp_path / "protoc-gen-pyproc"
    plugin.write_text(f"#!/bin/sh\nexec {sys.executable} -m pyproc_gen.plugin\n")
    plugin.chmod(0o755)
    (tmp_path / "plugin").mkdir()
    command = ["protoc", f"--plugin={plugin}", f"--pyproc_out={tmp_path / 'plugin'}", "-I.",
               f"-I{support.ROOT / 'schema'}", *case.files]
    done = subprocess.run(command, cwd=case.folder, env=support.environment(), check=False,
                          stderr=subprocess.PIPE, universal_newlines=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == (case.folder / "expected" / "notes.txt").read_text()
    support.generate(case.files, case.folder, tmp_path / "command", "--no-worker")
    assert support.tree(tmp_path / "plugin") == support.tree(tmp_path / "command")


def test_plugin_refuses(tmp_path: Path) -> None:
    plugin = tmp_path / "protoc-gen-pyproc"
    plugin.write_text(f"#!/bin/sh\nexec {sys.executable} -m pyproc_gen.plugin\n")
    plugin.chmod(0o755)
    command = ["protoc", f"--plugin={plugin}", f"--pyproc_out={tmp_path}", "-I.", "group.proto"]
    done = subprocess.run(command, cwd=support.BAD_SCHEMAS, env=support.environment(), check=False,
                          stderr=subprocess.PIPE, universal_newlines=True)
    assert done.returncode == 1
    assert "group.proto:4:18: field bad.Request.inner is a group" in done.stderr


def test_plugin_explains_itself(tmp_path: Path) -> None:
    done = support.run_generator([], tmp_path, module="pyproc_gen.plugin", data="no request")
    assert done.returncode == 1 and "protoc --pyproc_out" in done.stderr


STREAMS = """\
syntax = "proto3"; package p; import "pyproc/options.proto"; message M {}
service S {
  rpc Foo(stream M) returns (stream M);
  rpc FooOpen(M) returns (M);
  rpc FooRecv(M) returns (stream M);
  rpc Bar(M) returns (stream M);
  rpc BarSend(M) returns (M);
  rpc BarOpened(M) returns (M);
  rpc Baz(M) returns (M) { option (pyproc.method).c_name = "foo_done_sending"; }
}
"""


def test_functions_of_streams_clash_with_no_other(tmp_path: Path) -> None:
    """What a stream of another direction would need is kept free, too."""
    (tmp_path / "s.proto").write_text(STREAMS)
    done = support.run_generator(["s.proto", "--out", "gen"], tmp_path)
    assert (done.returncode, done.stderr) == (1, (
        "s.proto:9:28: c_name foo_done_sending does not fit rpc p.S/Baz: p_s_foo_done_sending is taken by rpc p.S/Foo "
        "(s.proto:3:7); choose another\n"))
    (tmp_path / "s.proto").write_text(STREAMS.replace("foo_done_sending", "foo_sent"))
    done = support.run_generator(["s.proto", "--out", "gen"], tmp_path)
    assert done.returncode == 0 and done.stderr.splitlines() == [
        "s.proto:4:7: note: rpc p.S/FooOpen becomes p_s_foo_open_2 in C: p_s_foo_open is taken by rpc p.S/Foo "
        "(s.proto:3:7)",
        "s.proto:7:7: note: rpc p.S/BarSend becomes p_s_bar_send_2 in C: p_s_bar_send is taken by rpc p.S/Bar "
        "(s.proto:6:7)",
    ]
