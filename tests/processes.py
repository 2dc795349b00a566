"""What the scripts that drive programs need to know of processes."""
from pathlib import Path
from typing import List


def children_of(pid: int) -> List[int]:
    """The processes that a process has started, and that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        if entry.name.isdigit() and int(fields[1]) == pid and fields[0] not in "ZX":
            found.append(int(entry.name))
    return found
