"""The base of all events. An event is declared once, in `penstock.telemetry.events`, and emitted where it happens."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import structlog
from prometheus_client import CollectorRegistry, Counter

REGISTRY = CollectorRegistry(auto_describe=True)
"""Every metric of the daemon; `/metrics` renders it."""

_log = structlog.get_logger("penstock")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """A thing that happened. Its fields become the fields of the log line.

    Subclasses say `level` (debug, info, warning, error), and may name a `counter` whose labels are those of the
    event's fields that the counter declares; `amount` is how much to count.
    """

    level: ClassVar[str] = "info"
    counter: ClassVar[Counter | None] = None

    @property
    def amount(self) -> float:
        """How much the counter grows."""
        return 1

    def emit(self) -> None:
        """Write the line and count."""
        fields = {name: value for name, value in vars(self).items() if value is not None}
        if self.counter is not None:
            labels = {name: str(fields.get(name, "")) for name in self.counter._labelnames}
            (self.counter.labels(**labels) if labels else self.counter).inc(self.amount)
        getattr(_log, self.level)(_words(type(self).__name__), **fields)


def _words(name: str) -> str:
    """`StreamOpened` as "stream opened"."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()
