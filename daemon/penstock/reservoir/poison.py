"""Poison messages: delivered too often, so that no reader gets them any more; they go to the dead-letter topic.

A message is acknowledged only when the service has confirmed its dead letter. Until then it is held here as in a batch:
its lease is extended, and it counts against the budget, so that a topic that cannot be written to stops the pulling
before the memory is full. On a subscription with ordering the later rows of its key go on without it.

Where the subscription has a dead-letter policy of its own, the service counts deliveries and its count is taken.
Elsewhere it says nothing, and this node counts which rows it handed out in a sealed batch and had to give back.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from penstock.reservoir.accounting import Ledger
from penstock.reservoir.attempts import Attempts
from penstock.reservoir.budget import Share
from penstock.reservoir.chunk import Chunk, give_back
from penstock.reservoir.known import RememberedIds
from penstock.reservoir.leases import Leases
from penstock.reservoir.ports import AckOutcome, AckSink, DeadLetterSink


class DeadLetters:
    """Picks what was delivered more than `limit` times, and settles it. Without a `sink` it picks nothing."""

    def __init__(  # noqa: PLR0913 - a part of `Holdings`
        self,
        sink: DeadLetterSink | None,
        limit: int,
        *,
        acks: AckSink,
        leases: Leases,
        share: Share,
        ledger: Ledger,
        remembered: RememberedIds,
    ) -> None:
        self.rows = 0
        """Picked and not settled."""
        self._sink = sink
        self._limit = limit
        self._acks = acks
        self._leases = leases
        self._share = share
        self._ledger = ledger
        self._remembered = remembered
        self._attempts = Attempts()
        self._pending: set[Chunk] = set()

    def pick(
        self, rows: pa.RecordBatch, ack_ids: pa.Array, now: float, *, receipt: bool
    ) -> tuple[pa.RecordBatch, pa.Array]:
        """Take out what was delivered too often; the rest, which mostly is the same objects."""
        attempts = None if self._sink is None or not rows.num_rows else self._deliveries(rows, now)
        if attempts is None or attempts.max() <= self._limit:
            return rows, ack_ids
        poison = attempts > self._limit
        out, keep = pa.array(poison), pa.array(~poison)
        column = rows.schema.get_field_index("delivery_attempt")
        counted = rows.set_column(column, rows.schema.field(column), pa.array(attempts, pa.int32()))
        self._bury(counted.filter(out), ack_ids.filter(out), now, receipt=receipt)
        return rows.filter(keep), ack_ids.filter(keep)

    def came_back(self, chunks: Iterable[Chunk], now: float) -> None:
        """Chunks that a reader had are given back: one more delivery in vain."""
        if self._sink is not None:
            self._attempts.came_back([chunk.rows.column("message_id") for chunk in chunks], now)

    def release_all(self) -> None:
        """Give back what is not confirmed. A letter that is published all the same comes a second time later."""
        chunks, self._pending = self._pending, set()
        if chunks:
            give_back(self._acks, chunks)
        for chunk in chunks:
            self.rows -= len(chunk)
            self._ledger.released += len(chunk)
            _end(chunk)

    def _deliveries(self, rows: pa.RecordBatch, now: float) -> np.ndarray | None:
        """How often each row was delivered, this time included (int32); None when nothing is known of any."""
        said = rows.column("delivery_attempt")
        if said.null_count < len(said):
            deliveries: np.ndarray = said.fill_null(1).to_numpy(zero_copy_only=False)
            return deliveries
        if not len(self._attempts):
            return None
        return self._attempts.counts(rows.column("message_id"), now) + np.int32(1)

    def _bury(self, rows: pa.RecordBatch, ack_ids: pa.Array, now: float, *, receipt: bool) -> None:
        assert self._sink is not None
        chunk = Chunk.decoded(rows, ack_ids, received_at=now, share=self._share, ordered=False)
        self._leases.hold(chunk, now + self._leases.deadline_s, receipt=receipt)
        self.rows += len(chunk)
        self._pending.add(chunk)

        def published() -> None:
            if chunk in self._pending:
                self._pending.remove(chunk)
                self._acks.acknowledge([chunk.ack_ids], settled)

        def settled(outcome: AckOutcome) -> None:
            if outcome.lost or (chunk.lease is not None and chunk.lease.lapsed):
                ids, times = chunk.rows.column("message_id"), chunk.rows.column("publish_time")
                self._remembered.remember(ids, now, beside=times)
            self.rows -= len(chunk)
            self._ledger.dead_lettered += outcome.confirmed
            self._ledger.acks_lost += outcome.lost
            _end(chunk)

        self._sink.publish(chunk.rows, published)


def _end(chunk: Chunk) -> None:
    if chunk.lease is not None:
        chunk.lease.end()
