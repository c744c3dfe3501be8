"""Option values as people write them: counts, sizes, durations, booleans, lists. All raise `InvalidOption`."""

from __future__ import annotations

import re
from typing import NoReturn

from penstock.errors import InvalidOption

_SIZE = re.compile(r"([0-9]{1,15})\s*([kmgt]?)(?:i?b)?")
HIGHEST = 1 << 62
"""Beyond this no count or size fits the 64 bits that they travel in."""

_SHOWN_LENGTH = 100
"""Characters of a value that an error repeats."""

_SIZES = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_DURATION = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*(ms|s|sec|seconds?|m|min|minutes?|h|hours?)?")
_DURATIONS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def refuse(option: str, value: str, allowed: str) -> NoReturn:
    """The one form of these errors: option, value, what is allowed."""
    raise InvalidOption(f"option {option}={shown(value)}: {allowed}", option=option)


def shown(value: str) -> str:
    """A value as errors repeat it."""
    return repr(value if len(value) <= _SHOWN_LENGTH else value[:_SHOWN_LENGTH] + "...")


def count(option: str, value: str, *, highest: int = HIGHEST) -> int:
    """A whole number from 1 on."""
    text = value.strip().replace("_", "")
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= highest):
        refuse(
            option, value, "a whole number of at least 1" + ("" if highest == HIGHEST else f" and at most {highest}")
        )
    return int(text)


def size_bytes(option: str, value: str) -> int:
    """Bytes: `1048576`, `64m`, `1g` (powers of 1024)."""
    match = _SIZE.fullmatch(value.strip().lower())
    found = int(match[1]) << _SIZES[match[2]] if match else 0
    if not 1 <= found <= HIGHEST:
        refuse(option, value, "a size of at least 1 byte, such as 1048576, 512k, 64m or 1g")
    return found


def seconds(option: str, value: str) -> float:
    """Seconds: `10s`, `500ms`, `5m`, `1h`, or a plain number of seconds."""
    match = _DURATION.fullmatch(value.strip().lower())
    if not match:
        refuse(option, value, "a duration such as 500ms, 10s, 5m or 1h")
    unit = match[2] or "s"
    return float(match[1]) * _DURATIONS["ms" if unit == "ms" else unit[0]]


def boolean(option: str, value: str) -> bool:
    """`true` or `false`."""
    text = value.strip().lower()
    if text not in {"true", "false"}:
        refuse(option, value, "true or false")
    return text == "true"


def names(value: str) -> tuple[str, ...]:
    """Comma-separated names."""
    return tuple(name.strip() for name in value.split(",") if name.strip())
