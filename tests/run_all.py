"""`make test-all`: what `make test` runs, then clang, sanitizers, valgrind, the portable platform layer, CPythons.

CONTRIBUTING.md says what each row covers.

The last line is `N passed, N failed` over everything. With PYPROC_RESULTS naming a folder, rows whose counts are
there already (from a `make test` just before) are not run again. `--sum` runs nothing and prints what is there.
`--quick` leaves out of a row what others have and this one hardly adds to.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent))
from run import Counts, count_entry, count_pytest, jobs, record, run  # noqa: E402

SOURCE = Path(__file__).resolve().parents[1]
LABELS = "unit|e2e|fuzz|program"
VALGRIND = ["valgrind", "--quiet", "--leak-check=full", "--show-leak-kinds=definite,indirect",
            "--errors-for-leak-kinds=definite,indirect", "--error-exitcode=99", "--child-silent-after-fork=yes",
            "--fair-sched=try", f"--suppressions={SOURCE}/tests/valgrind.supp"]
VALGRIND_TIMEOUT_S = 600
SCALE = 10  # percent of the calls that the end-to-end tests make, but in the release build
VALGRIND_SCALE = "5"
PYTHONS = range(9, 14)
# By row, the end-to-end tests that `--quick` leaves out. posix: those that do not touch the platform. asan: those that
# differ on the socket alone and are about time. tsan: the same, and those that call from one thread, also on all
# protocols. valgrind: those that asan watches with more load.
QUICK = {
    "posix": "matrix|kinds|conformance|codec|metadata|grpc|grpc_streams|grpc_target|retry|options|load|storm|"
             "stream_memory|large|soak",
    "asan": "cancel_uds|deadline_uds|load_uds|soak",
    "tsan": "faults_uds|deadline_uds|streams_uds|matrix|kinds|conformance|codec|metadata|grpc_target|options|limits|"
            "start|bare|soak",
    "valgrind": "matrix|faults|codec|load|hang|poison|storm|soak|conformance|kinds|hostile|stream_memory|large|clock|"
                "host|bare",
}


def build(preset: str, *options: str, targets: Sequence[str] = ("all",)) -> Optional[Path]:
    """Configures and builds a preset; None when that fails (its output is on screen)."""
    for command in (["cmake", "--preset", preset, "--log-level=WARNING", *options],
                    ["cmake", "--build", "--preset", preset, "-j", str(os.cpu_count() or 2), "--target", *targets]):
        if subprocess.run(command, cwd=SOURCE, check=False).returncode != 0:
            return None
    return SOURCE / ("build" if preset == "release" else f"build-{preset}")


def left_out(row: str, quick: bool) -> str:
    """A regular expression for ctest, which looks for it anywhere in a name."""
    return fr"^e2e\.({QUICK[row]})$" if quick and row in QUICK else ""


def run_preset(preset: str, label: str, leave_out: str = "", launcher: Sequence[str] = ()) -> Counts:
    """Builds a preset and runs its tests; a build that fails is one failure."""
    scale = 100 if preset == "release" else SCALE
    folder = build(preset, "-DPYPROC_TESTS=ON", f"-DPYPROC_TEST_SCALE={scale}")
    return run(folder, label, leave_out=leave_out, launcher=launcher) if folder else Counts(failed=1)


def run_tsan(leave_out: str) -> Counts:
    """ThreadSanitizer; gcc 12's cannot cope with newer kernels' address space layout unless it is not random."""
    fixed = ["setarch", "-R"]
    usable = shutil.which("setarch") is not None
    usable = usable and subprocess.run([*fixed, "true"], check=False, capture_output=True).returncode == 0
    return run_preset("tsan", LABELS, leave_out, fixed if usable else ())


def run_release() -> Counts:
    """What `make test` runs."""
    return run_preset("release", "")


def run_clang() -> Counts:
    """Builds with clang what posix, which is clang's too, does not build: the layer for Linux."""
    folder = build("clang", "-DPYPROC_TESTS=OFF", targets=("pyproc", "pyproc_worker"))
    return Counts(passed=1) if folder else Counts(failed=1)


@dataclass
class Test:
    """A test as ctest knows it."""

    name: str
    command: List[str]
    variables: Dict[str, str]
    directory: Optional[str]
    cost: float


def listed_tests(folder: Path, label: str) -> List[Test]:
    """A build's tests, those that cost most first."""
    text = subprocess.run(["ctest", "--test-dir", str(folder), "-L", label, "--show-only=json-v1"], check=True,
                          capture_output=True, text=True).stdout
    tests = []
    for test in json.loads(text)["tests"]:
        properties = {entry["name"]: entry["value"] for entry in test["properties"]}
        variables = dict(line.split("=", 1) for line in properties.get("ENVIRONMENT", []))
        tests.append(Test(test["name"], test["command"], variables, properties.get("WORKING_DIRECTORY"),
                          properties.get("COST", 0)))
    return sorted(tests, key=lambda test: -test.cost)


def run_under_valgrind(test: Test) -> Counts:
    """One test's cases."""
    started = time.monotonic()
    try:
        done = subprocess.run([*VALGRIND, *test.command], cwd=test.directory, check=False, timeout=VALGRIND_TIMEOUT_S,
                              env={**os.environ, **test.variables, "PYPROC_TEST_SCALE": VALGRIND_SCALE},
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, ok = done.stdout.decode("utf-8", "replace"), done.returncode == 0
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode("utf-8", "replace") + f"\nover {VALGRIND_TIMEOUT_S} s\n"
        ok = False
    counts = count_entry(output, ok)
    # Without valgrind's remarks on system calls that are newer than it.
    told = "" if ok else re.sub(r"^--\d+--.*\n", "", output, flags=re.M)
    print(f"{told}valgrind {test.name}: {counts} ({time.monotonic() - started:.0f} s)", flush=True)
    return counts


# Valgrind keeps limits and descriptors of its own, which workers inherit, and these look at them; what differs on the
# socket alone is left to the sanitizers.
NOT_UNDER_VALGRIND = re.compile(r"e2e\.(limits|zygote|\w+_uds)")


def run_valgrind(leave_out: str) -> Counts:
    """The end-to-end tests of the release build, once, under valgrind; the workers run without it."""
    folder = build("release", "-DPYPROC_TESTS=ON")
    if not folder:
        return Counts(failed=1)
    total = Counts()
    tests = [test for test in listed_tests(folder, "e2e") if not NOT_UNDER_VALGRIND.fullmatch(test.name)
             and not (leave_out and re.search(leave_out, test.name))]
    with ThreadPoolExecutor(jobs()) as pool:
        for counts in pool.map(run_under_valgrind, tests):
            total.add(counts)
    return total


def find_pythons() -> Dict[str, str]:
    """CPythons 3.9 to 3.13 on PATH and among pyenv's: version -> executable."""
    found: Dict[str, str] = {}
    roots = sorted((Path.home() / ".pyenv" / "versions").glob("3.*/bin/python3"))
    for minor in PYTHONS:
        candidates = [str(path) for path in roots if path.parts[-3].startswith(f"3.{minor}.")]
        for path in (shutil.which(f"python3.{minor}"), shutil.which("python3", path="/usr/bin")):
            candidates += [path] if path else []
        for candidate in candidates:
            probe = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
            done = subprocess.run([candidate, "-c", probe], check=False, capture_output=True, text=True)
            if done.stdout.strip() == f"3.{minor}":
                found[f"3.{minor}"] = candidate
                break
    return found


def run_python(version: str, executable: str) -> Counts:
    """Installs the worker by pip into a new virtual environment of a CPython and runs its tests there."""
    if os.environ.get("PIP_NO_INDEX"):
        print(f"skipped: Python {version}: pip may not reach an index (PIP_NO_INDEX)")
        return Counts(skipped=1)
    with tempfile.TemporaryDirectory(prefix="pyproc-python.") as work:
        # A copy: pip builds in the source folder.
        ignore = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
        shutil.copytree(SOURCE / "worker", Path(work) / "worker", ignore=ignore)
        shutil.copytree(SOURCE / "runtime/src/wire", Path(work) / "runtime/src/wire")
        for folder in ("worker", "conformance"):
            shutil.copytree(SOURCE / "tests" / folder, Path(work) / "tests" / folder, ignore=ignore)
        python = f"{work}/venv/bin/python"
        pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        steps = [[executable, "-m", "venv", f"{work}/venv"],
                 [*pip, "pytest", "protobuf", "setuptools", "wheel"],
                 [*pip, f"{work}/worker"]]
        for number, step in enumerate(steps):
            done = subprocess.run(step, cwd=work, check=False, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            if done.returncode != 0 and number == 1:
                reason = (re.findall(r"^ERROR: .*", done.stdout, re.M) or ["pip failed"])[-1]
                print(f"skipped: Python {version}: {reason}")
                return Counts(skipped=1)
            if done.returncode != 0:
                print(f"{' '.join(step)}\n{done.stdout}")
                return Counts(failed=1)
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith(("PYTHON", "PYPROC_"))}
        done = subprocess.run([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", f"{work}/tmp",
                               f"{work}/tests/worker"],
                              cwd=work, env=environment, check=False, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        counts = count_pytest(done.stdout)
        if done.returncode != 0:
            print(done.stdout)
            counts.failed = counts.failed or 1
        return counts


def all_rows(quick: bool) -> List[Tuple[str, Callable[[], Counts]]]:
    """The rows in the order in which they run."""
    rows: List[Tuple[str, Callable[[], Counts]]] = [("release", run_release)]
    for preset in ("posix", "asan"):
        rows.append((preset, lambda preset=preset:  # type: ignore[misc]
                     run_preset(preset, LABELS, left_out(preset, quick))))
    rows += [("clang", run_clang), ("tsan", lambda: run_tsan(left_out("tsan", quick))),
             ("valgrind", lambda: run_valgrind(left_out("valgrind", quick)))]
    for version, executable in find_pythons().items():
        rows.append((f"python{version}", lambda version=version, executable=executable:  # type: ignore[misc]
                     run_python(version, executable)))
    return rows


def recorded() -> Dict[str, Counts]:
    """The rows that the results folder holds."""
    folder = os.environ.get("PYPROC_RESULTS")
    files = sorted(Path(folder).glob("*.json")) if folder else []
    return {file.stem: Counts(**json.loads(file.read_text(encoding="utf-8"))) for file in files}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sum", action="store_true", help="run nothing, add up the results folder")
    parser.add_argument("--quick", action="store_true", help="leave out what other rows have")
    parser.add_argument("--broken", action="store_true", help="count a failure where none was counted")
    parser.add_argument("rows", nargs="*", help="only these rows")
    arguments = parser.parse_args()
    done = recorded()
    if not arguments.sum:
        before = set(done)
        for name, function in all_rows(arguments.quick):
            if name in before or (arguments.rows and name not in arguments.rows):
                continue
            print(f"== {name}", flush=True)
            started = time.monotonic()
            done[name] = function()
            record(name, done[name])
            print(f"== {name}: {done[name]} ({time.monotonic() - started:.0f} s)", flush=True)
    total = Counts()
    for counts in done.values():
        total.add(counts)
    if (arguments.broken or not done) and not total.failed:
        total.failed = 1
    print(f"rows: {', '.join(f'{name} ({counts})' for name, counts in done.items())}")
    print(total)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
