"""How a host starts a script, and how it hears of one that fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import FAILED, HELLO, PATIENCE_S, Host, environment, worker_folder


def failure(host: Host, script: str, **options: object) -> tuple[dict[str, str], int, str]:
    """The error object, the exit status and the output of a script that does not come to serve."""
    worker = host.spawn(script, **options)  # type: ignore[arg-type]
    failed = worker.wire.read()
    assert failed.kind == FAILED
    status = worker.process.wait(PATIENCE_S)
    return failed.json, status, worker.output()


def test_script_runs_as_main(host: Host) -> None:
    worker = host.start('''
import __main__, os, pickle, sys
from pyproc_worker import expose, serve
class Thing:
    pass
@expose
def about(request):
    return {"name": __name__, "file": __file__, "argv": sys.argv, "path": sys.path[0], "doc": __doc__,
            "same": __main__.__dict__ is globals(), "pickled": pickle.loads(pickle.dumps(Thing())).__class__ is Thing,
            "names": sorted(name for name in globals() if not name.startswith("__")),
            "buffered": sys.stdout.line_buffering, "last": sys.path[-1]}
if __name__ == "__main__":
    serve()
''', "--size", "7")
    script = str(worker.folder / "script.py")
    about = worker.call("about", {}).json
    assert about["argv"] == [script, "--size", "7"]
    assert (about["name"], about["file"], about["path"]) == ("__main__", script, str(worker.folder))
    assert about["same"] and about["pickled"] and about["buffered"] and about["doc"] is None
    assert about["names"] == ["Thing", "about", "expose", "os", "pickle", "serve", "sys"]
    assert about["last"] == str(worker_folder())


def test_script_without_bootstrap(host: Host) -> None:
    worker = host.start("from pyproc_worker import serve\nserve()\n", bootstrap=False)
    assert worker.call("health", {}).json["pid"] == worker.process.pid
    assert worker.stop() == 0


def test_run_worker_uses_the_inherited_socket(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "unused.sock"
    worker = host.start(f"from pyproc_worker import run_worker\nrun_worker({str(path)!r})\n")
    assert worker.call("health", {}).code == 0
    assert not path.exists()


def test_script_raises(host: Host) -> None:
    error, status, output = failure(host, "print('so far')\ndef load():\n    raise OSError(5, 'disk')\nload()\n")
    assert status == 1
    assert (error["error"], error["type"]) == ("[Errno 5] disk", "OSError")
    lines = error["traceback"].splitlines()
    assert lines[0].startswith("Traceback") and "script.py\", line 4, in <module>" in lines[1]
    assert "pyproc_bootstrap" not in error["traceback"]
    assert output == "so far\n" + error["traceback"]


def test_syntax_error(host: Host) -> None:
    error, status, output = failure(host, "x = 1\ny = = 2\n")
    assert status == 1 and error["type"] == "SyntaxError"
    assert "line 2" in error["traceback"] and "y = = 2" in error["traceback"] and "bootstrap" not in error["traceback"]


def test_failing_import(host: Host) -> None:
    error, status, _ = failure(host, "import no_such_module_of_ours\n")
    assert (status, error["type"]) == (1, "ModuleNotFoundError")
    assert error["error"] == "No module named 'no_such_module_of_ours'"


def test_start_hook_raises(host: Host) -> None:
    error, status, _ = failure(host, '''
from pyproc_worker import on_start, serve
@on_start
def load():
    raise RuntimeError("no model")
serve()
''')
    assert (status, error["error"], error["type"]) == (1, "no model", "RuntimeError")


@pytest.mark.parametrize("script, status, says", [
    ("pass", 0, "ended before it called serve() or run_worker()"),
    ("import sys; sys.exit()", 0, "exited with status 0"),
    ("import sys; sys.exit(4)", 4, "exited with status 4"),
    ("import sys; sys.exit('no licence')", 1, "'no licence'")])
def test_script_that_does_not_serve(host: Host, script: str, status: int, says: str) -> None:
    error, exit_status, _ = failure(host, script)
    assert exit_status == status and says in error["error"] and "script.py" in error["error"]


def test_missing_script(host: Host, tmp_path: Path) -> None:
    command = [sys.executable, str(worker_folder() / "pyproc_bootstrap.py"), str(tmp_path / "none.py")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1 and "FileNotFoundError" in done.stderr and "none.py" in done.stderr
    done = subprocess.run(command[:2], env=environment(), capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1 and "usage" in done.stderr


def test_script_that_raises_after_serving(host: Host) -> None:
    worker = host.start("from pyproc_worker import serve\nserve()\nraise ValueError('afterwards')\n")
    assert worker.stop() == 1
    assert "ValueError: afterwards" in worker.output()


def test_stop_hook_that_raises(host: Host) -> None:
    worker = host.start('''
from pyproc_worker import on_stop, serve
on_stop(lambda: print("first"))
@on_stop
def fail():
    raise ValueError("cannot save")
serve()
''')
    assert worker.stop() == 1
    assert "first" in worker.output() and "ValueError: cannot save" in worker.output()


def test_serving_twice_is_refused(host: Host) -> None:
    worker = host.start('''
from pyproc_worker import expose, serve
@expose
def again(request):
    serve()
serve()
''')
    reply = worker.call("again", {})
    assert reply.code == 2 and "serves already" in reply.json["error"]


def copy_of_package(to: Path) -> Path:
    """The worker's folder without its extension."""
    import pyproc_worker
    shutil.copytree(Path(pyproc_worker.__file__).parent, to / "pyproc_worker",
                    ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(worker_folder() / "pyproc_bootstrap.py", to)
    return to


@pytest.mark.parametrize("source", ["", "/opt/some where/worker"])
def test_extension_that_does_not_fit(host: Host, tmp_path: Path, source: str) -> None:
    folder = copy_of_package(tmp_path / "lib")
    if source:
        (folder / "SOURCE").write_text(source + "\n")
    worker = host.spawn("import pyproc_worker\n", bootstrap=False, environ={"PYTHONPATH": ""},
                        python=(sys.executable, "-I", "-S", str(folder / "pyproc_bootstrap.py")))
    failed = worker.wire.read()
    assert failed.kind == FAILED and failed.json["type"] == "ImportError"
    mend = f"{sys.executable} -m pip install " + (f"'{source}'" if source else "pyproc_worker")
    assert f"`{mend}`" in failed.json["error"] and str(folder / "pyproc_worker") in failed.json["error"]
    assert worker.process.wait(PATIENCE_S) == 1


def test_missing_protobuf(host: Host, tmp_path: Path) -> None:
    hide = tmp_path / "hide"
    hide.mkdir()
    (hide / "sitecustomize.py").write_text('''
import sys
class Hider:
    def find_spec(self, name, path=None, target=None):
        if name == "google" or name.startswith("google."):
            raise ModuleNotFoundError("No module named 'google'", name="google")
sys.meta_path.insert(0, Hider())
''')
    path = os.pathsep.join([str(hide), environment()["PYTHONPATH"]])
    error, status, output = failure(host, "from google.protobuf import descriptor\n", environ={"PYTHONPATH": path})
    assert status == 1 and f"`{sys.executable} -m pip install protobuf`" in error["error"]
    assert "pip install protobuf" in output


def test_installed_package_wins(host: Host, tmp_path: Path) -> None:
    package = tmp_path / "site" / "pyproc_worker"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the installed one')\n")
    error, _, _ = failure(host, "import pyproc_worker\n", environ={"PYTHONPATH": str(tmp_path / "site")})
    assert error["error"] == "the installed one"


def test_script_beside_another_module_of_its_folder(host: Host) -> None:
    script = host.write_script("")
    (script.parent / "helper.py").write_text("VALUE = 9\n")
    script.write_text("import helper\nfrom pyproc_worker import expose, serve\n"
                      "@expose\ndef value(request):\n    return helper.VALUE\nserve()\n")
    worker = host.start(script)
    assert worker.call("value", {}).json == 9


def test_hello_comes_after_start_hooks(host: Host) -> None:
    worker = host.spawn('''
import time
from pyproc_worker import on_start, serve
@on_start
def load():
    print("loaded")
serve()
''')
    assert worker.wire.read().kind == HELLO
    assert worker.output() == "loaded\n"
