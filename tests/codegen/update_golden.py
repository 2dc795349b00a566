"""Writes tests/golden/*/expected and tests/bad_schemas/*.expected anew; look at the difference before you commit it."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import support


def update_golden() -> None:
    """The files of every golden case, and what the generator said."""
    for case in support.CASES:
        expected = case.folder / "expected"
        shutil.rmtree(expected, ignore_errors=True)
        with tempfile.TemporaryDirectory() as folder:
            done = support.generate(case.files, case.folder, Path(folder))
            for path, content in support.ours(Path(folder)).items():
                target = expected / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            (expected / "notes.txt").write_text(done.stderr, encoding="utf-8")


def update_bad_schemas() -> None:
    """What the generator says of every bad schema."""
    for schema in sorted(support.BAD_SCHEMAS.glob("*.proto")):
        with tempfile.TemporaryDirectory() as folder:
            done = support.run_generator([schema.name, "--out", folder], support.BAD_SCHEMAS)
            if done.returncode != 1:
                sys.exit(f"{schema}: expected status 1, got {done.returncode}: {done.stderr}")
            schema.with_suffix(".expected").write_text(done.stderr, encoding="utf-8")


if __name__ == "__main__":
    update_golden()
    update_bad_schemas()
