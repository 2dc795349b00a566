"""Tries our side with the programs of others; the last line is `N passed, N failed, N skipped`.

Usage: run.py BUILD [PART …]. Each part is a script `part_*.py` of this folder, see README.md.
"""
import argparse
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PREFIX = "part_"


def run_part(script: Path, build: Path) -> "list[str]":
    """Runs a part, shows its output and returns its lines."""
    work = build / "interop" / script.stem[len(PREFIX):]
    work.mkdir(parents=True, exist_ok=True)
    print(f"# {script.stem[len(PREFIX):]}", flush=True)
    lines = []
    with subprocess.Popen([sys.executable, str(script), str(build), str(work)], stdout=subprocess.PIPE, text=True,
                          errors="replace") as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip("\n"))
    if process.returncode != 0:
        lines.append(f"not ok {script.name} ended with status {process.returncode}")
        print(lines[-1], flush=True)
    return lines


def main() -> int:
    """Runs the parts and counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("parts", nargs="*")
    arguments = parser.parse_args()
    scripts = sorted(FOLDER.glob(f"{PREFIX}*.py"))
    unknown = set(arguments.parts) - {script.stem[len(PREFIX):] for script in scripts}
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    passed = failed = skipped = 0
    for script in scripts:
        if arguments.parts and script.stem[len(PREFIX):] not in arguments.parts:
            continue
        lines = run_part(script, arguments.build.resolve())
        passed += sum(line.startswith("ok ") for line in lines)
        failed += sum(line.startswith("not ok ") for line in lines)
        skipped += sum(line.startswith("skipped: ") for line in lines)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
