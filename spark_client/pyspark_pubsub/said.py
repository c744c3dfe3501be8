"""The options that a query was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from penstock.errors import InvalidOption
from pyspark_pubsub import values

MAX_VALUE_LENGTH = 4096
"""A list of some hundred daemons; the service's filters have 256 bytes at most."""


class Said:
    """Options as given, each looked up whatever its case; names that are not `known` were refused.

    `elsewhere`: options of other connectors, and what to use in their place.
    """

    def __init__(self, given: Mapping[str, str], known: Sequence[str], elsewhere: Mapping[str, str]) -> None:
        names = {name.lower(): name for name in known}
        theirs = {name.lower(): (name, hint) for name, hint in elsewhere.items()}
        self._values: dict[str, str] = {}
        for name, value in given.items():
            if name.lower() in theirs:
                option, hint = theirs[name.lower()]
                raise InvalidOption(f"option {option} is not taken here: {hint}", option=option)
            if name.lower() not in names:
                raise InvalidOption(f"option {values.shown(name)[1:-1]} is unknown; known are {', '.join(known)}")
            self._values[names[name.lower()]] = value

    def get(self, option: str) -> str | None:
        """The value, stripped; None when absent. An empty one is refused."""
        value = self._values.get(option)
        if value is not None and not value.strip():
            values.refuse(option, value, "a value, or leave the option out")
        if value is not None and (len(value) > MAX_VALUE_LENGTH or not _is_unicode(value)):
            values.refuse(option, value, f"at most {MAX_VALUE_LENGTH} characters of valid Unicode are needed")
        return None if value is None else value.strip()

    def count(self, option: str, *, highest: int = 1 << 62) -> int | None:
        """A whole number; None when absent."""
        value = self.get(option)
        return None if value is None else values.count(option, value, highest=highest)

    def size_bytes(self, option: str) -> int | None:
        """Bytes; None when absent."""
        value = self.get(option)
        return None if value is None else values.size_bytes(option, value)

    def seconds(self, option: str) -> float | None:
        """Seconds; None when absent."""
        value = self.get(option)
        return None if value is None else values.seconds(option, value)

    def seconds_or(self, option: str, default_s: float) -> float:
        """Seconds; the default when absent."""
        said_s = self.seconds(option)
        return default_s if said_s is None else said_s

    def boolean(self, option: str) -> bool | None:
        """True or false; None when absent."""
        value = self.get(option)
        return None if value is None else values.boolean(option, value)


def _is_unicode(text: str) -> bool:
    """Half of a surrogate pair, which Java's strings may have, cannot be sent."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
