"""`make lint` and `make format`: clang-format, flake8, mypy --strict, shellcheck over the files of the project.

Every tool is one case; the last line is `N passed, N failed`.
"""
import argparse
import subprocess
import sys
from pathlib import Path
from typing import List

SOURCE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(SOURCE / "tests"))
from run import Counts, record  # noqa: E402

# Expected output of the generator is the generator's to lay out.
GENERATED = ("tests/golden/", "build", "gen/")
MYPY = [["codegen/pyproc_gen"], ["worker/pyproc_worker"],
        ["tests/run.py", "tests/run_all.py", "tests/exports.py", "tests/headers.py",
         "tests/http_service.py", "tests/leave_nothing.py", "tests/processes.py", "tests/soak.py",
         "tests/programs/daemon.py"],
        ["tests/install/run.py"], ["tests/conformance/worker.py"], ["tools/lint.py"],
        ["bench/plot.py", "bench/tables.py", "bench/smoke_test.py", "bench/peers/versions.py", "bench/peers/server.py",
         "bench/peers/original/build.py"],
        ["tests/interop/run.py", "tests/interop/support.py", "tests/interop/part_bare_worker.py",
         "tests/interop/part_go_library.py", "tests/interop/part_grpc.py"]]


def files(*suffixes: str) -> List[str]:
    """The project's files with one of the suffixes: git's, or what is there where this is no checkout."""
    done = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=SOURCE, check=False,
                          capture_output=True, text=True)
    names = done.stdout.split("\n") if done.returncode == 0 else \
        [str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*") if path.is_file()]
    return sorted(name for name in names if name.endswith(suffixes) and not name.startswith(GENERATED)
                  and (SOURCE / name).exists())


def shell_scripts() -> List[str]:
    """Scripts by suffix, and those without one."""
    return files(".sh") + [name for name in (".ci/run",) if (SOURCE / name).exists()]


def check(name: str, command: List[str], arguments: List[str]) -> bool:
    """Runs one tool over its files."""
    ok = not arguments or subprocess.run([*command, *arguments], cwd=SOURCE, check=False).returncode == 0
    print(f"{'ok' if ok else 'not ok'} {name}", flush=True)
    return ok


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", action="store_true", help="change the C files instead of checking")
    arguments = parser.parse_args()
    sources = files(".c", ".h", ".cc")
    if arguments.format:
        return subprocess.run(["clang-format", "-i", *sources], cwd=SOURCE, check=False).returncode
    results = [
        check("clang-format", ["clang-format", "--dry-run", "-Werror"], sources),
        check("flake8", ["flake8"], files(".py")),
        check("shellcheck", ["shellcheck"], shell_scripts()),
    ]
    for paths in MYPY:
        existing = [path for path in paths if (SOURCE / path).exists()]
        results.append(check(f"mypy {' '.join(existing)}", ["mypy", "--strict", "--no-error-summary"], existing))
    counts = Counts(passed=sum(results), failed=len(results) - sum(results))
    record("lint", counts)
    print(counts)
    return 1 if counts.failed else 0


if __name__ == "__main__":
    sys.exit(main())
