"""One subscription's decisions on their way to a store; without a store nothing is noted and nothing costs."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence

from penstock.clock import Clock
from penstock.errors import DiskFull
from penstock.reservoir.batch import Batch
from penstock.reservoir.budget import Share
from penstock.reservoir.chunk import Chunk
from penstock.reservoir.consumer import Consumer
from penstock.reservoir.decisions import (
    BatchCommitted,
    BatchEnded,
    BatchSealed,
    ConsumerEvicted,
    ConsumerHeard,
    ConsumerNoted,
    Decision,
    Piece,
)
from penstock.reservoir.evicted import Past
from penstock.reservoir.kept import Copy, Kept
from penstock.reservoir.ports import BatchStore
from penstock.reservoir.queue import UNLIMITED

HEARD_EVERY_S = 10.0
"""Contact is noted this rarely, so a restart may take a consumer for silent that much longer than it was: short against
`consumer_timeout_s`, and one small record a consumer."""

UNWRITTEN_BYTES = 8 << 20
"""A seal takes at most so much that is not written yet, and so waits 0.1 s where the disk takes 80 MB/s; the next one
takes the rest."""


class Notes:
    """Tells a `BatchStore` what a subscription decided. `wall` gives the time that outlives the machine's restart."""

    def __init__(
        self, subscription: str, store: BatchStore | None, clock: Clock, wall: Callable[[], float] = time.time
    ) -> None:
        self._subscription = subscription
        self._store = store
        self._clock = clock
        self._wall = wall
        self._heard: dict[str, float] = {}

    @property
    def durable(self) -> bool:
        """Whether what is sealed outlives the process."""
        return self._store is not None

    @property
    def problem(self) -> str | None:
        """Why nothing can be stored now, for people; None while it can."""
        return None if self._store is None else self._store.problem

    def check(self) -> None:
        """Raises `DiskFull` while nothing can be stored."""
        if (problem := self.problem) is not None:
            raise DiskFull(problem)

    def keep(self, chunk: Chunk, share: Share) -> None:
        """Begin to write a chunk's rows, unless they are written or being written already."""
        if self._store is None or chunk.kept is not None:
            return
        kept = Kept(counts=self._store.is_memory)
        chunk.keep(kept, 0)
        rows = Copy(chunk.rows, chunk.ack_ids, chunk.buckets)
        self._store.append(self._subscription, rows, kept, functools.partial(kept.written, share))

    def sealable_bytes(self, unsealed: Iterable[Chunk]) -> int:
        """Bytes that a seal may take of the unsealed chunks, in their order, without waiting for many to be written."""
        if self._store is None:
            return UNLIMITED
        size = unwritten = 0
        for chunk in unsealed:
            if chunk.kept is None or chunk.kept.copy is None:
                unwritten += chunk.rows_bytes
                if unwritten > UNWRITTEN_BYTES and size:
                    break
            size += chunk.rows_bytes
        return size

    def consumer(self, consumer: Consumer) -> None:
        """All of a consumer's state but its batches."""
        if self._store is None:
            return
        self._heard[consumer.id] = self._clock()
        self._store.record(
            ConsumerNoted(
                self._subscription,
                consumer.id,
                reader=consumer.reader,
                share=consumer.share,
                contact=consumer.contact,
                said_bye=consumer.said_bye,
                closed=consumer.closed,
                committed_through=consumer.committed_through,
                excluded=dict(consumer.excluded),
                at=self._wall_time(consumer.last_contact),
            )
        )

    def heard(self, consumer: Consumer) -> None:
        """An unfenced reader has spoken; noted now and then."""
        every_s = min(HEARD_EVERY_S, consumer.heartbeat_s)
        if self._store is None or self._clock() - self._heard.get(consumer.id, float("-inf")) < every_s:
            return
        self._heard[consumer.id] = self._clock()
        at = self._wall_time(consumer.last_contact)
        self._store.record(ConsumerHeard(self._subscription, consumer.id, at), lazily=True)

    def gone(self, consumer: Consumer, past: Past) -> None:
        """A consumer is not here any more; what must outlive it is."""
        self._heard.pop(consumer.id, None)
        self._record(
            ConsumerEvicted(past.subscription, consumer.id, past.reader, past.committed_through, closed=past.closed)
        )

    def sealed(self, consumer: Consumer, batch: Batch, refused: Callable[[], None]) -> None:
        """A new batch, whose rows are all kept. `refused` is called if they could not be stored, before anybody heard.

        Nobody has been told of the batch then.
        """
        if self._store is not None:
            sealed = BatchSealed(self._subscription, consumer.id, batch.epoch, batch.id, _pieces(batch.chunks))
            self._store.record(sealed, refused=refused)

    def committed(self, consumer: Consumer, batch: Batch) -> None:
        """A batch's acks are about to be sent."""
        self._record(BatchCommitted(self._subscription, consumer.id, batch.epoch, batch.id))

    def ended(self, consumer: Consumer, epoch: int, batch_id: str, reason: str) -> None:
        """A batch is no more."""
        self._record(BatchEnded(self._subscription, consumer.id, epoch, batch_id, reason))

    def _record(self, decision: Decision) -> None:
        if self._store is not None:
            self._store.record(decision)

    def _wall_time(self, at: float) -> float:
        return self._wall() - (self._clock() - at)


def _pieces(chunks: Sequence[Chunk]) -> tuple[Piece, ...]:
    pieces = []
    for chunk in chunks:
        assert chunk.kept is not None, "what is sealed is kept"
        pieces.append(Piece(chunk.kept, chunk.first_row, len(chunk)))
    return tuple(pieces)
