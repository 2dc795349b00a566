"""Draws the figures of results.json: latency, throughput and the goals, each as PNG and SVG.

Usage: plot.py FOLDER, which has results.json and gets the pictures. Needs matplotlib (python3-matplotlib), and says
so where it is missing.
"""
import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

try:
    import matplotlib  # type: ignore
except ImportError:
    print("skipped: the plots, which need matplotlib (python3-matplotlib)")
    sys.exit(0)
matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

Row = Dict[str, Any]
COLOURS = {"limit": "tab:grey", "uds": "tab:blue", "shm": "tab:green", "gRPC": "tab:red"}


def colour(case: str) -> str:
    """The same for all that is of one kind."""
    return next((one for word, one in COLOURS.items() if word in case), "tab:orange")


def figures(rows: List[Row], metric: str) -> Dict[str, float]:
    """By case, in the order of the table; rows of goals are left out."""
    return {row["case"]: row["value"] for row in rows
            if row["metric"] == metric and row["goal"] is None and row["value"]}


def save(figure: Any, folder: Path, name: str) -> None:
    """As PNG and SVG."""
    figure.tight_layout()
    for kind in ("png", "svg"):
        figure.savefig(folder / f"{name}.{kind}", dpi=120)
    pyplot.close(figure)


def bars(folder: Path, name: str, title: str, values: Dict[str, float], unit: str) -> None:
    """Horizontal bars on a logarithmic scale, the first on top."""
    if not values:
        return
    cases = list(values)[::-1]
    figure, axes = pyplot.subplots(figsize=(10, 1.5 + 0.26 * len(cases)))
    axes.barh(cases, [values[case] for case in cases], color=[colour(case) for case in cases])
    for place, case in enumerate(cases):
        axes.text(values[case], place, f" {values[case]:.3g}", va="center", fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.15, y=0.01)
    axes.set_xlabel(unit)
    axes.set_title(title)
    save(figure, folder, name)


def series(values: Dict[str, float], prefix: str, suffix: str) -> List[Tuple[float, float]]:
    """Points (number, value) of the cases whose names are prefix, number, suffix."""
    found = []
    for case, value in values.items():
        case = case.replace("1 thread", "1 threads") if case.endswith(" 1 thread") else case
        number = case[len(prefix):len(case) - len(suffix)]
        if case.startswith(prefix) and case.endswith(suffix) and number.isdigit():
            found.append((float(number), value))
    return sorted(found)


def lines(folder: Path, name: str, title: str, values: Dict[str, float], kinds: List[Tuple[str, str, str]],
          labels: Tuple[str, str]) -> None:
    """One line for each (label, prefix, suffix)."""
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for label, prefix, suffix in kinds:
        points = series(values, prefix, suffix)
        if points:
            axes.plot([point[0] for point in points], [point[1] for point in points], "o-", label=label)
    if not axes.lines:
        pyplot.close(figure)
        return
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.grid(True, which="both", alpha=0.3)
    axes.set_title(title)
    axes.legend()
    save(figure, folder, name)


def payloads(folder: Path, rows: List[Row]) -> None:
    """MiB/s by size."""
    units = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20}
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for channel in ("uds", "shm"):
        points = []
        for case, value in figures(rows, "bandwidth").items():
            if case.startswith(f"payload, {channel}, "):
                number, _, unit = case.split(", ")[2].partition(" ")
                points.append((int(number) * units[unit], value))
        if points:
            points.sort()
            axes.plot([point[0] for point in points], [point[1] for point in points], "o-", label=channel)
    if axes.lines:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("bytes of the field, there and back")
        axes.set_ylabel("MiB/s one way")
        axes.grid(True, which="both", alpha=0.3)
        axes.legend()
        save(figure, folder, "payload")
    else:
        pyplot.close(figure)


def goals(folder: Path, rows: List[Row]) -> None:
    """How far each goal is from being met: 1 and more is met."""
    values, colours = {}, []
    for row in rows:
        if row["goal"] is None or not row["value"]:
            continue
        ratio = row["value"] / row["goal"]
        better = ratio if row["met"] == (ratio >= 1) else 1 / ratio
        against = row["limit"] or row["peer"] or f"{row['goal']:g} {row['unit']}"
        values[f"{row['case']}, {row['metric']} (against {against})"] = better
        colours.append("tab:green" if row["met"] else "tab:red")
    if not values:
        return
    figure, axes = pyplot.subplots(figsize=(12, 1.5 + 0.28 * len(values)))
    axes.barh(list(values)[::-1], list(values.values())[::-1], color=colours[::-1])
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("1: as wanted; more is better")
    axes.set_title("goals")
    save(figure, folder, "goals")


def main() -> None:
    """Command line."""
    folder = Path(sys.argv[1])
    rows = json.loads((folder / "results.json").read_text(encoding="utf-8"))["rows"]
    one = {case: value for case, value in figures(rows, "p50").items() if "1 thread" in case or "1 goroutine" in case
           or case.startswith("limit") and ("handler" in case or "ping-pong" in case)}
    bars(folder, "latency", "p50 of one caller", one, "us")
    bars(folder, "throughput", "calls or messages per second", figures(rows, "throughput"), "1/s")
    lines(folder, "threads", "blocking calls by threads, one worker", figures(rows, "throughput"),
          [("uds", "typed, uds, ", " threads"), ("shm", "typed, shm, ", " threads"), ("gRPC", "gRPC, ", " threads")],
          ("threads", "calls/s"))
    lines(folder, "in_flight", "submitted calls, one thread, one worker", figures(rows, "throughput"),
          [("uds", "submit, uds, ", " in flight"), ("shm", "submit, shm, ", " in flight")], ("in flight", "calls/s"))
    payloads(folder, rows)
    goals(folder, rows)
    print(f"plots written to {folder}")


if __name__ == "__main__":
    main()
