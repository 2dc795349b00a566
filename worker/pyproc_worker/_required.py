"""Whether messages may lack a field that they must have, which protobuf looks for before it serialises one."""

from __future__ import annotations

from typing import Any


def _is_required(field: Any) -> bool:
    known = getattr(field, "is_required", None)  # what later versions have in place of `label`
    return bool(field.label == field.LABEL_REQUIRED if known is None else known)


def has_required(descriptor: Any, complete: set[str]) -> bool:
    """Whether a message of this descriptor has a required field, or may hold messages that have, also by extension.

    ``complete`` has the full names of messages that are known to be without; those that are found so are added.
    """
    seen: set[str] = set()
    open_ones = [descriptor]
    while open_ones:
        one = open_ones.pop()
        if one.full_name in seen or one.full_name in complete:
            continue
        seen.add(one.full_name)
        if one.is_extendable or any(map(_is_required, one.fields)):
            return True
        open_ones += [field.message_type for field in one.fields if field.message_type is not None]
    complete |= seen
    return False
