"""`make soak`: what the tests make for seconds, for minutes: all kills, cancels and calls. Prints the figures of each.

Usage: soak.py BUILD [ROW…]

A row runs a test program of the build, so often and with so many percent of its usual counts. The last line is
`N passed, N failed`.
"""
import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict

sys.path.insert(0, str(Path(__file__).resolve().parent))
from run import Counts, count_entry  # noqa: E402
from run_all import listed_tests  # noqa: E402

TIMEOUT_S = 1800
CMOCKA = re.compile(r"^\[(?:=+|-+|  PASSED  | RUN      |       OK )\]")


@dataclass
class Row:
    """One program, and what it is to do."""

    name: str
    test: str  # its name for ctest
    scale: int = 100  # percent of the counts in `make test`
    only: str = "*"  # of its cases
    times: int = 1
    environment: Dict[str, str] = field(default_factory=dict)


ROWS = [
    Row("storm", "e2e.storm", 600, "test_kills"),  # 30 s
    Row("changes", "e2e.storm", 1500, "test_kills_while*"),  # 15 s each
    Row("calls", "e2e.soak", 5000),  # 5 million, with recycling
    Row("cancels", "e2e.async", 1000, "tokens_race*", times=4),  # 15,000 for each protocol, each time
    Row("deadlines", "e2e.async", 1000, "deadlines_race*"),
    Row("streams", "e2e.stream_memory", environment={"PYPROC_TEST_STREAM_MIB": "1024"}),
    Row("rings", "unit.shm_faults", 1000),  # 10,000 kills, 100,000 spoilt words
    Row("kills", "e2e.shm", 1000, "test_kills"),  # the same with Python's workers: 150 kills,
    Row("spoilt", "e2e.shm", 1000, "test_spoilt_words"),  # and as many words of each direction
    Row("reloads", "e2e.reload", only="*_under_load", times=20),
]


def run_row(row: Row, build: Path) -> Counts:
    """Runs a row; prints what its programs say beside the names of their cases."""
    found = [test for test in listed_tests(build, "unit|e2e") if test.name == row.test]
    if not found:
        print(f"there is no test {row.test}")
        return Counts(failed=1)
    test = found[0]
    environment = {**os.environ, **test.variables, "PYPROC_TEST_SCALE": str(row.scale), "PYPROC_TEST_FILTER": row.only,
                   **row.environment}
    total = Counts()
    for _ in range(row.times):
        try:
            done = subprocess.run(test.command, cwd=test.directory, check=False, timeout=TIMEOUT_S, env=environment,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            output, ok = done.stdout.decode("utf-8", "replace"), done.returncode == 0
        except subprocess.TimeoutExpired as error:
            output, ok = (error.stdout or b"").decode("utf-8", "replace") + f"over {TIMEOUT_S} s\n", False
        if ok and "[ RUN " not in output:
            print(f"  no case of {row.test} is called {row.only}")
            ok = False
        total.add(count_entry(output, ok))
        for line in output.splitlines():
            if line and not CMOCKA.match(line):
                print("  " + line.strip())
    return total


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("rows", nargs="*", help="only these rows")
    arguments = parser.parse_args()
    total = Counts()
    for row in ROWS:
        if arguments.rows and row.name not in arguments.rows:
            continue
        print(f"== {row.name}", flush=True)
        started = time.monotonic()
        counts = run_row(row, arguments.build)
        print(f"== {row.name}: {counts} ({time.monotonic() - started:.0f} s)", flush=True)
        total.add(counts)
    print(total)
    return 1 if total.failed or not total.passed else 0


if __name__ == "__main__":
    sys.exit(main())
