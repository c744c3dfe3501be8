"""Which sealed batches leave the heap for temporary files, so that what waits for readers does not keep others out."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import pyarrow as pa

from penstock.reservoir.batch import Batch, State
from penstock.reservoir.budget import Allocation, Share
from penstock.reservoir.chunk import Chunk
from penstock.reservoir.kept import Copy, Kept
from penstock.reservoir.ports import SpillSink


class Spilling:
    """Spills batches of one subscription, one at a time. Without a `sink` it spills nothing.

    `above`: the part of the share that sealed rows on the heap may take.
    """

    def __init__(self, sink: SpillSink | None, share: Share, above: float) -> None:
        self._sink = sink
        self._share = share
        self._above = above

    def due(self, batches: Iterable[Batch], share_bytes: int) -> Batch | None:
        """The next one to spill: the one that has waited longest, while they take more than they may."""
        waiting = [batch for batch in batches if batch.state is State.SEALED and batch.heap_bytes]
        if sum(batch.heap_bytes for batch in waiting) <= self._above * share_bytes:
            return None
        return min(waiting, key=lambda batch: batch.chunks[0].received_at)

    def spill_due(self, batches: Iterable[Batch], share_bytes: int) -> None:
        """Begin to spill what is `due`, if the sink takes anything now."""
        if self._sink is None or not self._sink.ready:
            return
        batch = self.due(batches, share_bytes)
        if batch is not None:
            self._spill(batch, self._sink)

    def spilled(self, batches: Iterable[Batch]) -> list[Batch]:
        """Those that are in temporary files, in whole or in part."""
        return [] if self._sink is None else [batch for batch in batches if batch.filed_bytes]

    def _spill(self, batch: Batch, sink: SpillSink) -> None:
        chunks = [chunk for chunk in batch.chunks if chunk.kept is None]
        kept = [_kept(chunk) for chunk in chunks]
        copies = [Copy(chunk.rows, pa.nulls(len(chunk), pa.string()), None) for chunk in chunks]
        # Until the sink lets go of the rows they count, even if the batch ends meanwhile.
        claims = [chunk.rows_claim for chunk in chunks]
        size_bytes, batch.heap_bytes = batch.heap_bytes, 0
        done = functools.partial(self._spilled, batch, size_bytes, kept, claims)
        sink.spill(batch.id, list(zip(copies, kept, strict=True)), done)

    def _spilled(
        self,
        batch: Batch,
        size_bytes: int,
        kept: Sequence[Kept],
        _claims: Sequence[Allocation],
        copies: Sequence[Copy] | None,
    ) -> None:
        """It is written, or was not and stays where it is."""
        if copies is None:
            for one in kept:
                one.abandon()
            batch.heap_bytes = size_bytes
            return
        batch.filed_bytes += size_bytes
        for one, copy in zip(kept, copies, strict=True):
            one.written(self._share, copy)


def _kept(chunk: Chunk) -> Kept:
    kept = Kept(counts=False)
    chunk.keep(kept, 0)
    return kept
