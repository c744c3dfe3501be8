"""Acks and releases that wait for the decisions that they follow from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from penstock.reservoir.ports import AckOutcome, AckSink, BatchStore


class Durably:
    """Satisfies `AckSink` before another one: what ends a batch is on record before the service hears of it.

    A restart would otherwise serve again what was acknowledged or given back.
    """

    def __init__(self, sink: AckSink, store: BatchStore) -> None:
        self._sink = sink
        self._store = store

    def acknowledge(self, ack_ids: Sequence[pa.Array], settled: Callable[[AckOutcome], None]) -> None:
        """See `AckSink`. Passed on when all that was decided so far is durable."""
        self._store.after(lambda: self._sink.acknowledge(ack_ids, settled))

    def extend(self, ack_ids: Sequence[pa.Array], settled: Callable[[bool], None]) -> None:
        """See `AckSink`. Passed on at once: nothing follows from it."""
        self._sink.extend(ack_ids, settled)

    def release(self, ack_ids: Sequence[pa.Array], settled: Callable[[], None]) -> None:
        """See `AckSink`. Passed on when all that was decided so far is durable."""
        self._store.after(lambda: self._sink.release(ack_ids, settled))


def durably(sink: AckSink, store: BatchStore | None) -> AckSink:
    """The sink for a node with such a store, or with none."""
    return sink if store is None else Durably(sink, store)
