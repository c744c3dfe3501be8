"""A sealed batch: immutable rows under a random ID, and the one table of what can become of it."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from penstock.contract import new_id
from penstock.reservoir.budget import Allocation
from penstock.reservoir.chunk import Chunk
from penstock.reservoir.ordering import BUCKETS, bucket_range


class State(enum.Enum):
    """Where a batch is in its life."""

    SEALED = "sealed"
    COMMITTED = "committed"
    QUEUED = "requeued"
    RELEASED = "released"
    GONE = "gone"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.SEALED: frozenset({State.COMMITTED, State.QUEUED, State.RELEASED}),
    State.COMMITTED: frozenset({State.GONE}),
    State.RELEASED: frozenset({State.GONE}),
    State.QUEUED: frozenset(),
    State.GONE: frozenset(),
}


class IllegalMove(AssertionError):
    """A defect of ours: a batch was asked to move against `TRANSITIONS`."""


class SliceSize(NamedTuple):
    """Rows and approximate bytes of a slice."""

    rows: int
    bytes: int


@dataclass(frozen=True)
class Part:
    """Rows of one chunk. Holding it keeps their claim on the budget, whichever thread does."""

    rows: pa.RecordBatch
    claim: Allocation
    selection: np.ndarray | None

    @property
    def size_bytes(self) -> int:
        """Bytes of all rows that are held for it."""
        size: int = self.rows.nbytes
        return size

    def record_batch(self) -> pa.RecordBatch:
        """The rows; those of ordered batches are picked here, on the reader's thread."""
        return self.rows if self.selection is None else self.rows.take(pa.array(self.selection))


@dataclass(frozen=True)
class Snapshot:
    """The rows of one slice, in order."""

    parts: tuple[Part, ...]
    rows: int


class Batch:
    """What one daemon sealed for `(consumer, epoch)`.

    Of its bytes, `heap_bytes` are not in files, nor being written to any, and `filed_bytes` are in files.
    """

    def __init__(self, epoch: int, chunks: Sequence[Chunk], batch_id: str | None = None) -> None:
        self.id = batch_id or new_id()
        self.epoch = epoch
        self.state = State.SEALED
        self.chunks: tuple[Chunk, ...] = tuple(chunks)
        self.rows = sum(len(chunk) for chunk in chunks)
        self.bytes = sum(chunk.rows_bytes for chunk in chunks)
        self.ordered = any(chunk.buckets is not None for chunk in chunks)
        self.oldest_publish_us = min(chunk.publish_range_us[0] for chunk in chunks)
        self.newest_publish_us = max(chunk.publish_range_us[1] for chunk in chunks)
        self.heap_bytes = sum(chunk.rows_bytes for chunk in chunks if chunk.kept is None)
        self.filed_bytes = self.bytes - self.heap_bytes
        self._bucket_rows: np.ndarray | None = None

    def __repr__(self) -> str:
        """State, epoch, size."""
        return f"<Batch {self.id[:8]} epoch {self.epoch} {self.state.value}, {self.rows} rows, {self.bytes} bytes>"

    def move(self, state: State) -> None:
        """Change the state. Raises `IllegalMove` against the table."""
        if state not in TRANSITIONS[self.state]:
            raise IllegalMove(f"{self!r} cannot become {state.value}")
        self.state = state

    def surrender(self) -> tuple[Chunk, ...]:
        """Give the chunks up to whoever settles them; the batch keeps its figures only."""
        chunks, self.chunks = self.chunks, ()
        return chunks

    def slice_sizes(self, slices: int) -> list[SliceSize]:
        """The size of each slice; a pure function of (batch, `slices`)."""
        rows = [self._rows_in(index, slices) for index in range(slices)]
        return [SliceSize(count, self.bytes * count // self.rows) for count in rows]

    def snapshot(self, index: int, slices: int) -> Snapshot:
        """The rows of slice `index` of `slices`, always the same."""
        return self._ordered_snapshot(index, slices) if self.ordered else self._plain_snapshot(index, slices)

    def _range(self, index: int, slices: int) -> tuple[int, int]:
        return index * self.rows // slices, (index + 1) * self.rows // slices

    def _rows_in(self, index: int, slices: int) -> int:
        if not self.ordered:
            start, stop = self._range(index, slices)
            return stop - start
        if self._bucket_rows is None:
            counts = (
                np.bincount(chunk.buckets, minlength=BUCKETS) for chunk in self.chunks if chunk.buckets is not None
            )
            self._bucket_rows = np.sum(list(counts), axis=0)
        first, last = bucket_range(index, slices)
        return int(self._bucket_rows[first:last].sum())

    def _plain_snapshot(self, index: int, slices: int) -> Snapshot:
        start, stop = self._range(index, slices)
        parts, at = [], 0
        for chunk in self.chunks:
            low, high = max(start - at, 0), min(stop - at, len(chunk))
            if low < high:
                rows = chunk.rows if high - low == len(chunk) else chunk.rows.slice(low, high - low)
                parts.append(Part(rows, chunk.rows_claim, None))
            at += len(chunk)
        return Snapshot(tuple(parts), stop - start)

    def _ordered_snapshot(self, index: int, slices: int) -> Snapshot:
        """Rows in the order of arrival, of the slice's buckets only: a key's rows are in one slice, in order."""
        first, last = bucket_range(index, slices)
        parts = []
        for chunk in self.chunks:
            assert chunk.buckets is not None, "all chunks of an ordered subscription have buckets"
            selection = np.flatnonzero((chunk.buckets >= first) & (chunk.buckets < last))
            if len(selection):
                parts.append(Part(chunk.rows, chunk.rows_claim, None if len(selection) == len(chunk) else selection))
        return Snapshot(tuple(parts), self._rows_in(index, slices))
