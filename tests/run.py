"""Runs the tests of a build folder with ctest and counts their cases; the last line is `N passed, N failed`.

Usage: run.py BUILD [--label REGEX] [--exclude REGEX] [--name ROW]

A case is one cmocka test, one pytest test, one line `ok …` or `not ok …` of a script, or else the ctest entry itself.
With PYPROC_RESULTS naming a folder, the counts are also left there as ROW.json.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Sequence

CMOCKA_PASSED = re.compile(r"^\[  PASSED  \] (\d+) test", re.M)
CMOCKA_FAILED = re.compile(r"^ (\d+) FAILED TEST\(S\)", re.M)  # those with errors among them
CMOCKA_SKIPPED = re.compile(r"^\[  SKIPPED \].*?(\d+) test\(s\)", re.M)
PYTEST = re.compile(r"^=*\s*((?:\d+ (?:passed|failed|errors?|skipped|warnings?|xfailed|xpassed|deselected)(?:, )?)+)"
                    r" in [\d.]+s", re.M)
SKIPPED = re.compile(r"^skipped: .*", re.M)
TAP_OK = re.compile(r"^ok \S", re.M)
TAP_NOT_OK = re.compile(r"^not ok \S", re.M)


@dataclass
class Counts:
    """How many cases passed, failed and were skipped."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def add(self, other: "Counts") -> None:
        """Adds another one's numbers."""
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed"


def count_cmocka(output: str) -> Counts:
    """The cases of all groups of a cmocka program, by the summary of each."""
    return Counts(*(sum(int(number) for number in pattern.findall(output))
                    for pattern in (CMOCKA_PASSED, CMOCKA_FAILED, CMOCKA_SKIPPED)))


def count_pytest(output: str) -> Counts:
    """The cases of all pytest runs, by their last lines."""
    counts = Counts()
    for summary in PYTEST.findall(output):
        for number, word in re.findall(r"(\d+) (\w+)", summary):
            if word in ("passed", "xfailed"):
                counts.passed += int(number)
            elif word in ("failed", "error", "errors", "xpassed"):
                counts.failed += int(number)
            elif word == "skipped":
                counts.skipped += int(number)
    return counts


def count_entry(output: str, ok: bool) -> Counts:
    """The cases of one ctest entry; an entry that failed has at least one failure."""
    counts = Counts()
    counts.add(count_cmocka(output))
    counts.add(count_pytest(output))
    counts.add(Counts(len(TAP_OK.findall(output)), len(TAP_NOT_OK.findall(output))))
    if ok and counts == Counts():
        return Counts(passed=1)
    if not ok and not counts.failed:
        counts.failed = 1
    return counts


def jobs() -> int:
    """How many tests run side by side: they wait more than they compute."""
    return min(2 * (os.cpu_count() or 1), 16)


def run_ctest(build: Path, label: str, exclude: str, leave_out: str, report: Path, launcher: Sequence[str]) -> int:
    """Runs ctest with its progress on screen; returns its exit status."""
    command = [*launcher, "ctest", "--test-dir", str(build), "--output-on-failure", "--no-tests=error",
               "--output-junit", str(report),
               "--test-output-size-passed", "100000000", "--test-output-size-failed", "100000000",
               "-j", str(jobs())]
    if label:
        command += ["-L", label]
    if exclude:
        command += ["-LE", exclude]
    if leave_out:
        command += ["-E", leave_out]
    report.unlink(missing_ok=True)
    return subprocess.run(command, check=False).returncode


def count_report(report: Path) -> Counts:
    """Sums up ctest's report, and says what was skipped and why."""
    total = Counts()
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        output = case.findtext("system-out") or ""
        counts = count_entry(output, ok=case.get("status") == "run")
        total.add(counts)
        for line in SKIPPED.findall(output):
            print(f"{case.get('name')}: {line}")
        if counts.skipped:
            print(f"{case.get('name')}: {counts.skipped} skipped")
        if counts.failed:
            print(f"FAILED: {case.get('name')}: {counts.failed} failed")
    return total


def record(name: str, counts: Counts) -> None:
    """Leaves the counts of a row where a caller that adds up several rows asked for them."""
    folder = os.environ.get("PYPROC_RESULTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"{name}.json").write_text(json.dumps(asdict(counts)), encoding="utf-8")


def run(build: Path, label: str = "", exclude: str = "", leave_out: str = "", launcher: Sequence[str] = ()) -> Counts:
    """Runs a build's tests, but for labels and names that match, and counts them; that ctest fails is a failure."""
    report = build.resolve() / "tests.xml"
    status = run_ctest(build, label, exclude, leave_out, report, launcher)
    counts = count_report(report) if report.exists() else Counts(failed=1)
    if status != 0 and not counts.failed:
        counts.failed = 1
    return counts


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("--label", default="", help="only entries with a matching label")
    parser.add_argument("--exclude", default="", help="no entries with a matching label")
    parser.add_argument("--name", default="release", help="row in the results folder")
    arguments = parser.parse_args()
    counts = run(arguments.build, arguments.label, arguments.exclude)
    record(arguments.name, counts)
    sys.stdout.flush()
    print(counts)
    return 1 if counts.failed else 0


if __name__ == "__main__":
    sys.exit(main())
