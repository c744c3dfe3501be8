"""The segments that a subscription still needs, and how many of each one's messages are open."""

from __future__ import annotations

import dataclasses
from itertools import pairwise, takewhile

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.emulator.segment import Segment, gather


@dataclasses.dataclass(slots=True)
class _Held:
    segment: Segment
    open_rows: int
    last_entry: int


class Shelf:
    """Segments by number, in publish order. Memory is bounded by what is open: a segment without open rows can go."""

    def __init__(self) -> None:
        self._held: dict[int, _Held] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._held)

    def add(self, segment: Segment, open_rows: int, first_entry: int) -> int:
        """Keep a segment whose `open_rows` chosen messages are the entries from `first_entry` on; says its number."""
        number = self._next
        self._held[number] = _Held(segment, open_rows, first_entry + open_rows - 1)
        self._next += 1
        return number

    def messages(self, numbers: NDArray[np.int64], rows: NDArray[np.int64]) -> pa.StructArray:
        """The messages at some rows of some segments (ascending), as one array."""
        cuts = _cuts(numbers)
        return gather([(self._held[int(numbers[first])].segment, rows[first:last]) for first, last in pairwise(cuts)])

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


def _cuts(numbers: NDArray[np.int64]) -> list[int]:
    """Where runs of equal numbers begin, and the end."""
    if not len(numbers):
        return []
    return [0, *(np.flatnonzero(numbers[1:] != numbers[:-1]) + 1).tolist(), len(numbers)]
