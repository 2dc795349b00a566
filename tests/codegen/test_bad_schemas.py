"""Schemas that are refused: status 1, nothing written, and these lines on standard error."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import support

schemas = sorted(support.BAD_SCHEMAS.glob("*.proto"))


@pytest.mark.parametrize("schema", schemas, ids=[schema.stem for schema in schemas])
def test_is_refused(schema: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = support.run_generator([schema.name, "--out", str(out)], support.BAD_SCHEMAS)
    assert (done.returncode, done.stderr) == (1, schema.with_suffix(".expected").read_text())
    assert all(re.match(r"[^:]+\.proto:\d+:\d+: \S", line) for line in done.stderr.splitlines())
    assert not out.exists() and done.stdout == ""


def test_every_expectation_has_its_schema() -> None:
    assert [schema.stem for schema in schemas] == sorted(
        path.stem for path in support.BAD_SCHEMAS.glob("*.expected"))
