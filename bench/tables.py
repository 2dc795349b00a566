"""Prints the tables of docs/performance.md, in Markdown, from a results.json.

Usage: tables.py RESULTS.JSON
"""
import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

Row = Dict[str, Any]
Cases = Dict[str, Dict[str, Row]]

COLUMNS = (("p50", "p50 us"), ("p99", "p99 us"), ("throughput", "calls/s"), ("fairness", "slowest ÷ fastest"),
           ("CPU per call", "CPU us per call"), ("wake-ups per call", "wake-ups per call"))
PEERS = ("gRPC", "our stub", "Thrift", "ZeroMQ", "HTTP", "original")


def text(value: Optional[float]) -> str:
    """Three digits."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def print_table(head: List[str], lines: List[List[str]]) -> None:
    """Nothing where there are no lines."""
    if not lines:
        return
    for line in (head, ["---"] * len(head), *lines):
        print(f"| {' | '.join(line)} |")
    print()


def by_case(rows: List[Row]) -> Cases:
    """Case -> metric -> row, without the rows of goals."""
    cases: Cases = {}
    for row in rows:
        if row["goal"] is None and row["value"] is not None:
            cases.setdefault(row["case"], {})[row["metric"]] = row
    return cases


def ratio(metrics: Dict[str, Row], kind: str) -> str:
    """To the limit or the peer: of p50, or of calls/s where that has none."""
    for metric, unit in (("p50", "× p50"), ("throughput", "× calls/s")):
        value = metrics.get(metric, {}).get(f"{kind}_ratio")
        if value is not None:
            return f"{value:.3g} {unit}"
    return ""


def print_calls(cases: Cases, wanted: List[str]) -> None:
    """One line for each case."""
    lines = []
    for name in wanted:
        metrics = cases[name]
        values = [text(metrics[key]["value"]) if key in metrics else "" for key, _ in COLUMNS]
        lines.append([name, *values, ratio(metrics, "limit"), ratio(metrics, "peer")])
    print_table(["case", *(title for _, title in COLUMNS), "limit", "peer"], lines)


def print_goals(rows: List[Row]) -> None:
    """One line for each goal."""
    lines = []
    for row in rows:
        if row["goal"] is None:
            continue
        value_ratio = row["limit_ratio"] if row["limit"] else row["peer_ratio"]
        against = row["limit"] or row["peer"] or ""
        lines.append([f"{row['case']}, {row['metric']}", f"{text(row['value'])} {row['unit']}", against,
                      text(value_ratio), f"{text(row['goal'])} {row['unit']}", "met" if row["met"] else "**missed**"])
    print_table(["goal", "figure", "compared with", "ratio", "to reach", ""], lines)


def print_others(cases: Cases) -> None:
    """What is no call."""
    wanted = ("time", "memory per worker", "idle CPU", "syscalls per call")
    lines = [[name, metric, f"{text(row['value'])} {row['unit']}"] for name, metrics in cases.items()
             for metric, row in metrics.items() if metric in wanted]
    print_table(["case", "what", "figure"], lines)


def print_moved(cases: Cases) -> None:
    """Payloads and streams."""
    lines = [[name, text(metrics["throughput"]["value"]), text(metrics["bandwidth"]["value"]),
              text(metrics.get("CPU per call", {}).get("value")), ratio(metrics, "limit")]
             for name, metrics in cases.items() if name.startswith(("payload", "stream"))]
    print_table(["case", "messages/s", "MiB/s", "CPU us per message", "limit"], lines)


def main() -> None:
    """Command line."""
    results = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for title in ("machine", "versions"):
        print(", ".join(f"{name} {value if isinstance(value, str) else text(value)}"
                        for name, value in results[title].items()) + "\n")
    cases = by_case(results["rows"])
    calls = [name for name in cases if "p50" in cases[name] or name.startswith("limit")]
    peers = [name for name in calls if name.startswith(PEERS)]
    print_goals(results["rows"])
    print_calls(cases, [name for name in calls if name not in peers and not name.startswith("payload")])
    print_moved(cases)
    print_others(cases)
    print_calls(cases, peers)


if __name__ == "__main__":
    main()
