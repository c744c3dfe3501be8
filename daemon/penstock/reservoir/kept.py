"""A chunk's copy in a store: where it is, and which chunks are to read from it once it is written."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from penstock.reservoir.budget import Allocation, Share

if TYPE_CHECKING:
    from penstock.reservoir.chunk import Chunk


class Place(NamedTuple):
    """Where a store has the bytes of a chunk, and their XXH3 (64 bits). `bucketed`: they tell the buckets, too."""

    segment: int
    offset: int
    length: int
    checksum: int
    bucketed: bool


class Copy(NamedTuple):
    """A whole chunk in mapped memory."""

    rows: pa.RecordBatch
    ack_ids: pa.Array
    buckets: np.ndarray | None


class Kept:
    """One chunk as it was appended. Its place in the store is free when nothing refers to this any more.

    `place` and `copy` are None until it is written. `counts`: the store is memory too, and what it holds counts in the
    budget.
    """

    __slots__ = ("__weakref__", "_chunks", "_claims", "copy", "counts", "place")

    def __init__(self, *, counts: bool, place: Place | None = None) -> None:
        self.counts = counts
        self.place = place
        self.copy: Copy | None = None
        self._claims: tuple[Allocation, Allocation] | None = None
        self._chunks: weakref.WeakSet[Chunk] = weakref.WeakSet()

    def add(self, chunk: Chunk) -> None:
        """One more chunk that has rows of it."""
        self._chunks.add(chunk)

    def abandon(self) -> None:
        """There will be no copy: the chunks stay where they are."""
        for chunk in list(self._chunks):
            chunk.kept = None

    @property
    def wanted(self) -> bool:
        """Whether any chunk has rows of it."""
        return bool(self._chunks)

    def written(self, share: Share, copy: Copy) -> None:
        """The copy is there: the chunks read their rows from it, and let go of their own memory."""
        self.copy = copy
        for chunk in list(self._chunks):
            chunk.move_to(copy.rows, self.claims(share)[0])

    def claims(self, share: Share) -> tuple[Allocation, Allocation]:
        """What the copy's rows and ack IDs take of the budget: nothing where they are on a disk."""
        assert self.copy is not None, "only what is written can be read"
        if self._claims is None:
            buffers = (self.copy.rows, self.copy.ack_ids)
            rows, ack_ids = (share.claim(held.get_total_buffer_size() if self.counts else 0) for held in buffers)
            self._claims = rows, ack_ids
        return self._claims
