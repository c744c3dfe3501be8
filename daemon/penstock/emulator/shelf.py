"""The segments that a subscription still needs, and how many of each one's messages are open."""

from __future__ import annotations

import dataclasses
from itertools import pairwise, takewhile

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.emulator.segment import Segment, gather

# Small segments are put together up to this size: a publish of one message costs some 50 KB as arrays of its own, and
# as long to slice as a thousand messages.
_SMALL_ROWS = 100
_MERGED_ROWS = 1000
_MERGED_BYTES = 1 << 18
_PARTS = 32


@dataclasses.dataclass(slots=True)
class _Held:
    """Messages of one segment, or of small ones that came after another (`parts`, put together now and then)."""

    parts: list[pa.StructArray]
    rows: int
    size_bytes: int
    open_rows: int
    last_entry: int
    growing: bool

    def messages(self) -> pa.StructArray:
        """All of them as one array; none are added once they were looked at."""
        self.growing = False
        if len(self.parts) > 1:
            self.parts = [pa.concat_arrays(self.parts)]
        return self.parts[0]


class Shelf:
    """Segments by number, in publish order. Memory is bounded by what is open: a segment without open rows can go."""

    def __init__(self) -> None:
        self._held: dict[int, _Held] = {}
        self._last: _Held | None = None
        self._next = 0

    def __len__(self) -> int:
        return len(self._held)

    def add(self, segment: Segment, open_rows: int, first_entry: int) -> tuple[int, int]:
        """Keep a segment of which `open_rows` chosen messages are the entries from `first_entry` on.

        Says the number under which it is kept, and the row that its first message has there.
        """
        rows, size_bytes = len(segment.messages), int(segment.sizes_bytes.sum())
        last = self._last
        if (
            last is None
            or not last.growing
            or last.open_rows == 0
            or last.rows + rows > _MERGED_ROWS
            or last.size_bytes + size_bytes > _MERGED_BYTES
        ):
            last = _Held([], 0, 0, 0, 0, growing=rows < _SMALL_ROWS)
            self._last = self._held[self._next] = last
            self._next += 1
        first_row = last.rows
        last.parts.append(segment.messages)
        if len(last.parts) == _PARTS:
            last.parts = [pa.concat_arrays(last.parts)]
        last.rows += rows
        last.size_bytes += size_bytes
        last.open_rows += open_rows
        last.last_entry = first_entry + open_rows - 1
        return self._next - 1, first_row

    def messages(self, numbers: NDArray[np.int64], rows: NDArray[np.int64]) -> pa.StructArray:
        """The messages at some rows of some segments (ascending), as one array."""
        cuts = pairwise(_cuts(numbers))
        return gather([(self._held[int(numbers[first])].messages(), rows[first:last]) for first, last in cuts])

    def has(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each is still here."""
        return np.isin(numbers, np.fromiter(self._held, np.int64, len(self._held)))

    def count(self, numbers: NDArray[np.int64], sign: int, *, drop: bool) -> None:
        """One message of each number (ascending) more (+1) or less (-1) is open; `drop` lets a finished segment go."""
        for first, last in pairwise(_cuts(numbers)):
            number = int(numbers[first])
            held = self._held[number]
            held.open_rows += sign * (last - first)
            if drop and held.open_rows == 0:
                del self._held[number]

    def drop_done(self, before: int) -> None:
        """Let go of segments from the front that are done and wholly before the entry `before`."""

        def is_done(item: tuple[int, _Held]) -> bool:
            return item[1].open_rows == 0 and item[1].last_entry < before

        for number, _ in [*takewhile(is_done, self._held.items())]:
            del self._held[number]

    def clear(self) -> None:
        """Let all go."""
        self._held.clear()
        self._last = None


def _cuts(numbers: NDArray[np.int64]) -> list[int]:
    """Where runs of equal numbers begin, and the end."""
    if not len(numbers):
        return []
    return [0, *(np.flatnonzero(numbers[1:] != numbers[:-1]) + 1).tolist(), len(numbers)]
