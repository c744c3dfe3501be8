"""What a store found of a process before this one, in the form in which a subscription takes it up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penstock.reservoir.budget import Share
from penstock.reservoir.chunk import Chunk
from penstock.reservoir.consumer import Consumer, Tombstone
from penstock.reservoir.decisions import ConsumerNoted, Piece


@dataclass(frozen=True)
class RecoveredBatch:
    """A batch that was sealed; `committed`: Spark has finished it, and its acks are not confirmed.

    `damage`: why its rows cannot be trusted, for people; None when their checksums are right and all are mapped.
    """

    epoch: int
    id: str
    committed: bool
    pieces: Sequence[Piece]
    damage: str | None = None

    def chunks(self, share: Share, now: float) -> list[Chunk]:
        """The rows, received `now` as far as leases go, and claimed from the budget."""
        return [_chunk(piece, share, now) for piece in self.pieces]


@dataclass(frozen=True)
class RecoveredConsumer:
    """A consumer, its batches by epoch, and the end of those that it had: epoch → (batch ID, reason)."""

    noted: ConsumerNoted
    batches: Sequence[RecoveredBatch]
    ended: Mapping[int, tuple[str, str]]

    def consumer(self, timeout_s: float) -> Consumer:
        """The consumer without its batches. Its reader has to `open` again, and is fenced as before."""
        noted = self.noted
        consumer = Consumer(
            noted.consumer,
            timeout_s,
            reader=noted.reader,
            contact=noted.contact,
            said_bye=noted.said_bye,
            closed=noted.closed,
            share=noted.share,
            committed_through=noted.committed_through,
            excluded=dict(noted.excluded),
        )
        for epoch, (batch, reason) in self.ended.items():
            consumer.bury(epoch, Tombstone(batch, reason))
        return consumer


def _chunk(piece: Piece, share: Share, now: float) -> Chunk:
    copy = piece.kept.copy
    assert copy is not None, "what is recovered is mapped"
    rows = copy.rows.slice(piece.first_row, piece.rows)
    ack_ids = copy.ack_ids.slice(piece.first_row, piece.rows)
    buckets = None if copy.buckets is None else copy.buckets[piece.first_row : piece.first_row + piece.rows]
    chunk = Chunk(rows, ack_ids, received_at=now, claims=piece.kept.claims(share), buckets=buckets)
    chunk.keep(piece.kept, piece.first_row)
    return chunk
