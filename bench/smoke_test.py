"""Runs some cases of pyproc-bench for a moment: do they run, and is what they write as docs/performance.md says?

Usage: smoke_test.py PROGRAM; one line `ok …` or `not ok …` for each test.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict

CASES = ("limit: UDS with handler", "limit: shm ping-pong", "=typed, uds, 1 thread", "=typed, uds, 16 threads",
         "=submit, uds, 64 in flight", "=payload, uds, 1 KiB", "stream down, uds, 16 B", "stream up, uds, 16 B",
         "=handler of 20 us, uds", "past its deadline", "=start of a pool, 1 worker", "crash to next good call")
KEYS = {"case", "metric", "value", "unit", "peer", "peer_ratio", "limit", "limit_ratio", "goal", "met"}

failed = False


def check(good: bool, name: str, why: object = "") -> None:
    """One test."""
    global failed
    print("ok" if good else "not ok", name, "" if good else why)
    failed = failed or not good


def check_rows(results: Dict[str, Any]) -> None:
    """What was measured, and what it is compared with."""
    rows = results["rows"]
    check(bool(rows) and all(set(row) == KEYS for row in rows), "the members of a row", rows[:1])
    values = {(row["case"], row["metric"]): row for row in rows if row["goal"] is None}
    check(all(row["value"] is not None and row["value"] >= 0 for row in values.values()), "all rows have a value")
    own = values.get(("typed, uds, 1 thread", "p50"), {})
    check(own.get("limit") == "limit: UDS with handler, spinning" and own.get("limit_ratio", 0) > 0,
          "a case and its limit", own)
    goals = [row for row in rows if row["goal"] is not None]
    wrong = [row for row in goals if row["met"] not in ((row["value"] <= row["goal"]), (row["value"] >= row["goal"]))]
    check(len(goals) >= 5 and not wrong, "the goals", wrong)
    check(results["machine"]["processors"] > 0 and "protobuf" in results["versions"],
          "machine and versions", results["machine"])


def main() -> int:
    """Command line."""
    with tempfile.TemporaryDirectory(prefix="pyproc-bench-") as folder:
        output = Path(folder) / "results.json"
        command = [sys.argv[1], "--only", "|".join(CASES), "--no-peers", "--rounds", "1", "--output", str(output)]
        done = subprocess.run([*command, "0.01"], check=False, text=True, timeout=120,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        check(done.returncode == 0, "it runs", done.stdout)
        if done.returncode == 0:
            check_rows(json.loads(output.read_text(encoding="utf-8")))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
