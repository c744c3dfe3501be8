"""The unsealed chunks of a subscription, oldest first."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from penstock.reservoir.budget import Share
from penstock.reservoir.chunk import Chunk

UNLIMITED = 1 << 62
"""For rows or bytes: more than any memory has."""

_NONE = np.zeros(1, bool)


class ChunkQueue:
    """First in, first out, with whole batches put back at the head."""

    def __init__(self) -> None:
        self._chunks: deque[Chunk] = deque()
        self.rows = 0
        self.bytes = 0

    def __iter__(self) -> Iterator[Chunk]:
        """Oldest first."""
        return iter(self._chunks)

    def __len__(self) -> int:
        """Chunks."""
        return len(self._chunks)

    def append(self, chunk: Chunk) -> None:
        """A new chunk at the tail."""
        self._chunks.append(chunk)
        self._count(chunk, 1)

    def put_back(self, chunks: Iterable[Chunk]) -> None:
        """Chunks that were taken before, in their order, at the head."""
        for chunk in reversed(tuple(chunks)):
            self._chunks.appendleft(chunk)
            self._count(chunk, 1)

    def oldest_received_at(self) -> float | None:
        """When the chunk at the head was received. Chunks put back are the oldest."""
        return self._chunks[0].received_at if self._chunks else None

    def oldest_publish_us(self) -> int | None:
        """The least publish time of all rows."""
        return min((chunk.publish_range_us[0] for chunk in self._chunks), default=None)

    def take(self, max_rows: int, max_bytes: int) -> tuple[list[Chunk], tuple[Chunk, list[Chunk]] | None]:
        """Take chunks from the head within the limits, at least one row if there is any; ordered ones or others.

        Returns the chunks taken, and `(whole, [head, tail])` if one was cut: the head is the last one taken, the tail
        is back in the queue, and both want a lease in place of the whole's.
        """
        taken: list[Chunk] = []
        rows_left, bytes_left = max_rows, max_bytes
        while self._chunks and rows_left > 0:
            chunk = self._chunks[0]
            if taken and (chunk.buckets is None) is not (taken[0].buckets is None):
                break  # the subscription became ordered, or ceased to be: a batch is one or the other
            if len(chunk) <= rows_left and chunk.rows_bytes <= bytes_left:
                taken.append(self._pop())
                rows_left -= len(chunk)
                bytes_left -= chunk.rows_bytes
                continue
            fit = min(rows_left, len(chunk) * bytes_left // max(chunk.rows_bytes, 1))
            if fit <= 0 and taken:
                break
            fit = max(fit, 1)
            whole = self._pop()
            if fit >= len(whole):  # a single message above the limit
                return [*taken, whole], None
            head, tail = whole.cut(fit)
            self.put_back([tail])
            return [*taken, head], (whole, [head, tail])
        return taken, None

    def remove(self, chunks: Iterable[Chunk]) -> list[Chunk]:
        """Remove those of `chunks` that are here; returns them."""
        wanted = {id(chunk) for chunk in chunks}
        removed = [chunk for chunk in self._chunks if id(chunk) in wanted]
        self._keep([chunk for chunk in self._chunks if id(chunk) not in wanted])
        return removed

    def clear(self) -> list[Chunk]:
        """Remove and return all."""
        chunks = list(self._chunks)
        self._keep(())
        return chunks

    def expel(self, buckets: np.ndarray, share: Share) -> tuple[list[Chunk], list[tuple[Chunk, Chunk | None]]]:
        """Take out all rows of some buckets (bool per bucket), since rows of theirs that came before went back.

        Returns the parts taken out, and for each chunk that lost rows what replaced it in the queue.
        """
        out: list[Chunk] = []
        replaced: list[tuple[Chunk, Chunk | None]] = []
        kept: list[Chunk] = []
        for chunk in self._chunks:
            hit = _NONE if chunk.buckets is None else buckets[chunk.buckets]
            if not hit.any():
                kept.append(chunk)
                continue
            rest = None if hit.all() else chunk.filtered(~hit, share)
            out.append(chunk if rest is None else chunk.filtered(hit, share))
            replaced.append((chunk, rest))
            if rest is not None:
                kept.append(rest)
        self._keep(kept)
        return out, replaced

    def _pop(self) -> Chunk:
        chunk = self._chunks.popleft()
        self._count(chunk, -1)
        return chunk

    def _keep(self, chunks: Iterable[Chunk]) -> None:
        for chunk in self._chunks:
            chunk.unsealed = False
        self._chunks = deque(chunks)
        for chunk in self._chunks:
            chunk.unsealed = True
        self.rows = sum(len(chunk) for chunk in self._chunks)
        self.bytes = sum(chunk.rows_bytes for chunk in self._chunks)

    def _count(self, chunk: Chunk, sign: int) -> None:
        chunk.unsealed = sign > 0
        self.rows += sign * len(chunk)
        self.bytes += sign * chunk.rows_bytes
