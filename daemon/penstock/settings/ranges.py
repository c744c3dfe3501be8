"""What a setting may be, in words, from the constants that check it."""

from __future__ import annotations

from pydantic.fields import FieldInfo

_SIGNS = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))


def bounds(field: FieldInfo) -> list[str]:
    """Its limits, such as `>= 10` and `<= 600`; empty when there are none."""
    return [
        f"{sign} {bound}"
        for constraint in field.metadata
        for name, sign in _SIGNS
        if (bound := getattr(constraint, name, None)) is not None
    ]
