"""All events of the daemon, one class each, by room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prometheus_client import Counter

from penstock.telemetry.event import REGISTRY, Event


def _counter(name: str, help_text: str, *labels: str) -> Counter:
    return Counter(f"penstock_{name}", help_text, labels, registry=REGISTRY)


# --- pubsub ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class StreamOpened(Event):
    """A pull stream was opened."""

    level = "debug"
    counter: ClassVar = _counter("pull_streams_opened", "StreamingPull calls started", "subscription")
    subscription: str
    stream: int


# --- flight ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RequestFailed(Event):
    """A call failed in a way that nobody planned: a defect of ours."""

    level = "error"
    counter: ClassVar = _counter("flight_defects", "Flight calls that failed by a defect", "call")
    call: str
    error: str


# --- service --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Serving(Event):
    """The daemon is up."""

    listen: str
    port: int
    http: str
    node: str


@dataclass(frozen=True, kw_only=True)
class Draining(Event):
    """The daemon was told to stop."""

    timeout_s: float


@dataclass(frozen=True, kw_only=True)
class Drained(Event):
    """The drain is over; `unconfirmed` ack IDs were not confirmed by the service in time."""

    unconfirmed: int


@dataclass(frozen=True, kw_only=True)
class RowsLapsed(Event):
    """Unsealed rows whose ack deadline ran out were dropped; the service delivers them again."""

    level = "warning"
    rows: int


@dataclass(frozen=True, kw_only=True)
class ReadsCancelled(Event):
    """Readers that stood still lost their rows."""

    level = "warning"
    counter: ClassVar = _counter("reads_cancelled", "do_get calls cancelled because their reader stood still")
    reads: int

    @property
    def amount(self) -> float:
        """One for each read."""
        return self.reads
