"""What the Spark query has counted so far, safe against batches that are run again."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

LATENCY_STEP_MS = 10
"""Publish times are grouped to this before they leave Spark: the resolution of the latencies below."""


@dataclass(frozen=True)
class Group:
    """Messages of one city published within one step: their number, bytes, and the step (in `LATENCY_STEP_MS`)."""

    city: str
    step: int
    messages: int
    data_bytes: int


@dataclass
class _Batch:
    messages: Counter[str] = field(default_factory=Counter)
    data_bytes: Counter[str] = field(default_factory=Counter)
    latencies_ms: Counter[int] = field(default_factory=Counter)


class Tally:
    """Figures by batch ID: a batch that Spark runs again replaces itself. Thread-safe."""

    def __init__(self) -> None:
        self._batches: dict[int, _Batch] = {}
        self._lock = threading.Lock()
        self.last_done_s = 0.0

    def record(self, batch_id: int, groups: Iterable[Group], done_s: float) -> None:
        """One finished batch; `done_s` is the wall clock when its result was there."""
        batch = _Batch()
        for group in groups:
            batch.messages[group.city] += group.messages
            batch.data_bytes[group.city] += group.data_bytes
            batch.latencies_ms[max(round(done_s * 1000) - group.step * LATENCY_STEP_MS, 0)] += group.messages
        with self._lock:
            self._batches[batch_id] = batch
            self.last_done_s = done_s

    @property
    def batches(self) -> int:
        """Batches that had rows."""
        with self._lock:
            return sum(1 for batch in self._batches.values() if batch.messages)

    @property
    def messages(self) -> int:
        """Messages processed."""
        return sum(self.by_city()[0].values())

    def by_city(self) -> tuple[Counter[str], Counter[str]]:
        """Messages and bytes per city."""
        messages: Counter[str] = Counter()
        data_bytes: Counter[str] = Counter()
        with self._lock:
            for batch in self._batches.values():
                messages.update(batch.messages)
                data_bytes.update(batch.data_bytes)
        return messages, data_bytes

    def latency_s(self, quantile: float) -> float:
        """The time from publish to processed that this part of the messages did not exceed."""
        with self._lock:
            together: Counter[int] = Counter()
            for batch in self._batches.values():
                together.update(batch.latencies_ms)
        wanted, seen = quantile * together.total(), 0
        for latency_ms in sorted(together):
            seen += together[latency_ms]
            if seen >= wanted:
                return latency_ms / 1000
        return 0.0
