"""Fills in the templates. Decisions are made before: here values only become text."""

from __future__ import annotations

import os
from typing import Any

import jinja2

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates")),
    undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    autoescape=False,
)


def render(template: str, **values: Any) -> str:
    """The text of a template."""
    return _ENVIRONMENT.get_template(template).render(**values)
