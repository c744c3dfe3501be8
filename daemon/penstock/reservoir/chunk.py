"""A chunk: what one decode produced, and the unit that is moved, leased and counted."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from penstock.reservoir.budget import Allocation, Share
from penstock.reservoir.id_table import SLOT_BYTES, Seat
from penstock.reservoir.kept import Kept
from penstock.reservoir.ordering import buckets_of

if TYPE_CHECKING:
    from penstock.reservoir.ports import AckSink


class Chunk:
    """Rows with their ack IDs, one lease, and the budget's claims on both.

    `rows` has `contract.ROWS_SCHEMA`; `ack_ids` is a string array, row by row. `buckets` (uint8, row by row) is there
    on subscriptions with ordering only. `unsealed` is the queue's mark; `committed` says that acks are on their way;
    `renewed`: messages of it were delivered again while it was held, so they may be on their way once more. `seat` is
    where its message IDs are found. `kept` is the store's copy of a chunk, of whose rows these are the ones
    from `first_row` on; None where there is no store, or before it was given one. `names` (row by row, null for a row
    without one) are those that `duplicates` watches for; None where there are none, or once they are settled.
    """

    __slots__ = (
        "__weakref__",
        "_claims",
        "ack_ids",
        "buckets",
        "committed",
        "first_row",
        "kept",
        "lease",
        "names",
        "publish_range_us",
        "received_at",
        "renewed",
        "rows",
        "rows_bytes",
        "seat",
        "unsealed",
    )

    def __init__(
        self,
        rows: pa.RecordBatch,
        ack_ids: pa.Array,
        *,
        received_at: float,
        claims: tuple[Allocation, ...],
        buckets: np.ndarray | None = None,
        seat: Seat | None = None,
    ) -> None:
        self.rows = rows
        self.ack_ids = ack_ids
        self.received_at = received_at
        self.buckets = buckets
        self.rows_bytes: int = rows.nbytes
        self.publish_range_us = _publish_range_us(rows)
        self.lease: Lease | None = None
        self.unsealed = False
        self.committed = False
        self.renewed = False
        self.seat = seat
        self.names: pa.Array | None = None
        self.kept: Kept | None = None
        self.first_row = 0
        self._claims = claims

    @classmethod
    def decoded(
        cls, rows: pa.RecordBatch, ack_ids: pa.Array, *, received_at: float, share: Share, ordered: bool
    ) -> Chunk:
        """A chunk fresh from the decoder, claimed from the budget.

        Counted by the buffers' full size, since the decoder allocates outside Arrow's memory pools.
        """
        ids_bytes = ack_ids.get_total_buffer_size() + SLOT_BYTES * len(ack_ids)
        claims = (share.claim(rows.get_total_buffer_size()), share.claim(ids_bytes))
        buckets = buckets_of(rows.column("ordering_key")) if ordered else None
        return cls(rows, ack_ids, received_at=received_at, claims=claims, buckets=buckets)

    def __len__(self) -> int:
        """Rows."""
        return len(self.ack_ids)

    def __repr__(self) -> str:
        """Rows and bytes."""
        return f"<Chunk {len(self)} rows, {self.rows_bytes} bytes>"

    @property
    def rows_claim(self) -> Allocation:
        """What a reader of the rows holds, so that they count while it reads."""
        return self._claims[0]

    @property
    def ids_claims(self) -> tuple[Allocation, ...]:
        """What whoever sends the ack IDs holds, so that they count until they are settled."""
        return self._claims[1:]

    def shed(self, share: Share) -> None:
        """Drop all that an acknowledgement does not need: its rows are committed, nobody reads them again.

        What a store holds stays there and goes as a whole.
        """
        self.committed = True
        if self.kept is not None and (self.kept.place is not None or self.kept.copy is not None):
            return
        left = self.rows.select(["message_id", "publish_time"])
        self._claims = (share.claim(left.get_total_buffer_size()), *self._claims[1:])
        self.rows = left
        self.buckets = None

    def renew(self, rows: np.ndarray, ack_ids: pa.Array, share: Share) -> None:
        """Messages of these rows were delivered again with these ack IDs; of several for a row the last one counts.

        The rows stay as they are, and so does whatever was made of the old ack IDs. The array of those is claimed on:
        it shares a block of memory with the message IDs.
        """
        newest = np.arange(len(self))
        newest[rows] = len(self) + np.arange(len(rows))
        self.ack_ids = pa.concat_arrays([self.ack_ids, ack_ids]).take(pa.array(newest))
        self._claims = (*self._claims[:2], share.claim(self.ack_ids.get_total_buffer_size()))
        self.renewed = True

    def keep(self, kept: Kept, first_row: int) -> None:
        """These are rows of a chunk that a store has or is about to have."""
        self.kept, self.first_row = kept, first_row
        kept.add(self)

    def move_to(self, rows: pa.RecordBatch, claim: Allocation) -> None:
        """Read from the store's copy of the whole chunk, and let go of the memory that came from the decoder.

        The ack IDs stay: they are a seventh of 1 KB messages, and the loop would fault their pages in, one by one.
        """
        if self.rows.num_columns < rows.num_columns:  # shed: its rows are not needed any more
            return
        self.rows = rows if len(self) == rows.num_rows else rows.slice(self.first_row, len(self))
        self._claims = (claim, *self._claims[1:])

    def cut(self, rows: int) -> tuple[Chunk, Chunk]:
        """The first `rows` rows and the rest, sharing buffers and claims. The lease stays with neither."""
        return self._part(0, rows), self._part(rows, len(self) - rows)

    def _part(self, start: int, rows: int) -> Chunk:
        buckets = None if self.buckets is None else self.buckets[start : start + rows]
        seat = None if self.seat is None else self.seat.part(slice(start, start + rows))
        chunk = self._with(self.rows.slice(start, rows), self.ack_ids.slice(start, rows), buckets, seat)
        chunk.names = None if self.names is None else self.names.slice(start, rows)
        if self.kept is not None:
            chunk.keep(self.kept, self.first_row + start)
        return chunk

    def filtered(self, keep: np.ndarray, share: Share) -> Chunk:
        """The rows where `keep` (bool, row by row) holds. Still claims the whole: the rest is about to go.

        Those of a chunk that is in a file are on the heap again, and claimed anew.
        """
        assert self.buckets is not None, "only ordered subscriptions pick rows"
        mask = pa.array(keep)
        seat = None if self.seat is None else self.seat.part(keep)
        part = self._with(self.rows.filter(mask), self.ack_ids.filter(mask), self.buckets[keep], seat)
        part.names = None if self.names is None else self.names.filter(mask)
        if self.kept is not None:
            part._claims = (share.claim(part.rows.get_total_buffer_size()), *part._claims[1:])  # noqa: SLF001 - our own
        return part

    def _with(self, rows: pa.RecordBatch, ack_ids: pa.Array, buckets: np.ndarray | None, seat: Seat | None) -> Chunk:
        chunk = Chunk(rows, ack_ids, received_at=self.received_at, claims=self._claims, buckets=buckets, seat=seat)
        chunk.renewed = self.renewed
        return chunk


class Lease:
    """The ack deadline of a chunk's messages. `chunk` is None once they are settled, so that nothing keeps them alive.

    `lapsed`: the deadline ran out while the chunk was held, so its messages may come again. `receipt`: the service has
    still to be told that they were received. `flying_rows`: of the extension that is under way.
    """

    __slots__ = ("chunk", "flying_rows", "lapsed", "receipt", "until")

    def __init__(self, chunk: Chunk, until: float, *, receipt: bool = False) -> None:
        self.chunk: Chunk | None = chunk
        self.until = until
        self.lapsed = False
        self.receipt = receipt
        self.flying_rows = 0
        chunk.lease = self

    def end(self) -> None:
        """The messages are settled: nothing is left to extend."""
        if self.chunk is not None:
            self.chunk.lease = None
            self.chunk = None


def give_back(acks: AckSink, chunks: Iterable[Chunk]) -> None:
    """Release the messages of chunks; their ack IDs count in the budget until they are settled."""
    held = [(chunk.ack_ids, chunk.ids_claims) for chunk in chunks]
    acks.release([ack_ids for ack_ids, _ in held], functools.partial(let_go, [claims for _, claims in held]))


def let_go(_claims: Sequence[object]) -> None:
    """Whoever has this as a callback holds claims on the budget; they end with it."""


def _publish_range_us(rows: pa.RecordBatch) -> tuple[int, int]:
    """Least and greatest publish time in microseconds since 1970; (0, 0) where the service gave none."""
    times = rows.column("publish_time")
    if times.null_count:
        times = times.drop_null()
    if not len(times):
        return (0, 0)
    # Straight from the buffer: a compute kernel costs ten times as much for a chunk, and every chunk pays.
    microseconds = np.frombuffer(times.buffers()[1], np.int64, len(times), times.offset * 8)
    return (int(microseconds.min()), int(microseconds.max()))
