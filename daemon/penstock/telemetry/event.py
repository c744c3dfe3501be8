"""The base of all events. An event is declared once, in `penstock.telemetry.events`, and emitted where it happens."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import structlog
from prometheus_client import CollectorRegistry, Counter, disable_created_metrics

REGISTRY = CollectorRegistry(auto_describe=True)
"""Every metric of the daemon; `/metrics` renders it."""

# A second series beside each counter, with the time of its first use, which nothing reads.
disable_created_metrics()

_log = structlog.get_logger("penstock")


class Count:
    """A counter and the fields of the event that label it."""

    def __init__(
        self, name: str, help_text: str, labels: tuple[str, ...], registry: CollectorRegistry = REGISTRY
    ) -> None:
        self._counter = Counter(f"penstock_{name}", help_text, labels, registry=registry)
        self.labels = labels

    def add(self, amount: float, fields: Mapping[str, Any]) -> None:
        """Count `amount` under the labels' values in `fields`."""
        labels = {name: str(fields.get(name, "")) for name in self.labels}
        (self._counter.labels(**labels) if labels else self._counter).inc(amount)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """A thing that happened. Its fields become the fields of the log line.

    Subclasses say `level` (debug, info, warning, error), and may name a `counter` whose labels are those of the
    event's fields that the counter declares; `amount` is how much to count.
    """

    level: ClassVar[str] = "info"
    counter: ClassVar[Count | None] = None

    @property
    def amount(self) -> float:
        """How much the counter grows."""
        return 1

    def emit(self) -> None:
        """Write the line and count."""
        fields = {name: value for name, value in vars(self).items() if value is not None}
        if self.counter is not None:
            self.counter.add(self.amount, fields)
        # A log that cannot be written (a full disk, a closed pipe) must not stop what it tells of.
        with contextlib.suppress(OSError, ValueError):
            getattr(_log, self.level)(_words(type(self).__name__), **fields)


def _words(name: str) -> str:
    """`StreamOpened` as "stream opened"."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()
