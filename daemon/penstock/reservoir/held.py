"""Which messages are held (unsealed, sealed, or with acks on their way), so that a redelivery is found by its ID."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.reservoir.budget import Share
from penstock.reservoir.id_table import Hashes, IdTable, Rows, Seat, hashes_of

LEAST_ROWS = 1 << 8
"""Room of the smallest table, which takes 4 KiB: it must be little beside the smallest share, or it pauses that."""

SHRINK = 8
"""A table that is full is followed by one twice as large, one that was never filled to an eighth, while its capacity
went through it `SHRINK_AFTER` times, by a smaller one: what is held goes up and down with every batch. With
`id_table.FILL` that makes 20 to 36 bytes for a message of many, and half as much again while tables change."""
SHRINK_AFTER = 4

MOVES = 2
"""While tables change, so many times the rows of a new chunk move on with it: the last one has moved long before the
new table is full, and no call moves them all."""


class Seated(Protocol):
    """What has IDs, and may have a seat in a table: a chunk, or the names of one."""

    seat: Seat | None

    @property
    def rows(self) -> pa.RecordBatch:
        """Among its columns those that are compared."""

    def __len__(self) -> int:
        """Rows."""


Holder = TypeVar("Holder", bound=Seated)


@dataclass(frozen=True)
class Match(Generic[Holder]):
    """Rows that are held already: `held` are their rows in `chunk`, `asked` their rows in what was asked for."""

    chunk: Holder
    held: Rows
    asked: Rows


class HeldIds(Generic[Holder]):
    """The IDs of all rows of a subscription's chunks. Entries leave with their chunk; without any there is no table.

    `columns`: the one with the ID, and those that are the same in the same message. One without an ID is never found.
    """

    def __init__(self, share: Share, columns: Sequence[str] = ("message_id", "publish_time")) -> None:
        self._share = share
        self._columns = tuple(columns)
        self._tables: list[_Numbered[Holder]] = []
        """The last one takes new chunks; those before it are being left."""
        self._most_rows = 0
        self._most_rows_before = 0
        """Held at once, since there is a table or since its size was last thought over; and in the time before that."""
        self._passed_rows = 0

    def __len__(self) -> int:
        """Rows."""
        return sum(table.ids.rows for table in self._tables)

    def __repr__(self) -> str:
        """Such as `<HeldIds [<IdTable 1000 of 8192 rows>]>`."""
        return f"<HeldIds {[table.ids for table in self._tables]}>"

    def find(self, rows: pa.RecordBatch, hashes: Hashes) -> list[Match[Holder]]:
        """Which of these rows are held, by chunk: those with the same values in all columns.

        The publish time is compared because test servers number their messages from 1 again when they are restarted.
        """
        matches = [match for table in self._tables for match in table.suspects(hashes)]
        verified = [_verified(match, rows, self._columns) for match in matches]
        return [match for match in verified if len(match.asked)]

    def add(self, chunk: Holder, hashes: Hashes, *, distinct: bool = False) -> bool:
        """Hold a chunk, none of whose rows is held yet.

        False, and nothing done, if it seems to hold a message twice; with `distinct` the caller has made sure.
        """
        self._adapt(len(hashes))
        done = self._tables[-1].add(chunk, hashes, distinct=distinct)
        self._move_on(MOVES * len(hashes))
        return done

    def replace(self, whole: Holder, parts: Iterable[Holder]) -> None:
        """`parts` of a chunk hold its rows from now on, each row one of them."""
        if whole.seat is not None:
            self._table(whole).replace(whole, parts)

    def drop(self, chunks: Iterable[Holder]) -> None:
        """These chunks end: none of their rows is held any more."""
        for chunk in chunks:
            if chunk.seat is not None:
                self._table(chunk).remove(chunk)
        if not all(table.chunks for table in self._tables):
            # A smaller one is opened by `add`; the one that is left stays while it is needed.
            self._tables = [table for table in self._tables if table.chunks]
            if not self._tables:
                self._start_count(0)

    def _table(self, chunk: Holder) -> _Numbered[Holder]:
        return next(table for table in self._tables if chunk.seat is not None and table.ids is chunk.seat.table)

    def _adapt(self, more: int) -> None:
        """Make sure of a table that fits what is held and `more` rows."""
        rows = len(self) + more
        self._most_rows = max(self._most_rows, rows)
        self._passed_rows += more
        if not self._tables:  # as large as it will soon have to be
            self._open(max(rows, self._most_rows_before))
            return
        ids = self._tables[-1].ids
        if rows > ids.capacity:
            self._open(2 * rows)
        elif len(self._tables) == 1 and (ids.worn or self._too_large(ids)):
            self._open(2 * max(rows, self._most_rows, self._most_rows_before))

    def _too_large(self, ids: IdTable) -> bool:
        if self._passed_rows < SHRINK_AFTER * ids.capacity:
            return False
        self._start_count(len(self))
        return self._most_rows_before * SHRINK < ids.capacity > LEAST_ROWS

    def _start_count(self, rows: int) -> None:
        self._most_rows, self._most_rows_before, self._passed_rows = rows, self._most_rows, 0

    def _open(self, rows: int) -> None:
        self._tables.append(_Numbered(IdTable(max(rows, LEAST_ROWS), self._share)))

    def _move_on(self, rows: int) -> None:
        """Move about so many rows out of the oldest table."""
        while rows > 0 and len(self._tables) > 1:
            chunk = self._tables[0].oldest()
            rows -= len(chunk)
            hashes = hashes_of(chunk.rows.column(self._columns[0]))
            self._tables[0].remove(chunk)
            self._tables = [table for table in self._tables if table.chunks or table is self._tables[-1]]
            self._tables[-1].add(chunk, hashes, distinct=True)


class _Numbered(Generic[Holder]):
    """A table, and the chunks in it by number."""

    def __init__(self, ids: IdTable) -> None:
        self.ids = ids
        self.chunks: dict[int, Holder] = {}
        self._free: list[int] = []

    def oldest(self) -> Holder:
        """The one that has been here for longest."""
        return next(iter(self.chunks.values()))

    def suspects(self, hashes: Hashes) -> Iterator[Match[Holder]]:
        """Rows whose hash is here, by chunk; few are of another message."""
        rows, slots = self.ids.find(hashes)
        if not len(rows):
            return
        owners = self.ids.owners(slots)
        for owner in np.unique(owners).tolist():
            chunk = self.chunks[owner]
            assert chunk.seat is not None
            mine = owners == owner
            order = np.argsort(chunk.seat.slots)
            held = order[np.searchsorted(chunk.seat.slots, slots[mine], sorter=order)]
            yield Match(chunk, held, rows[mine])

    def add(self, chunk: Holder, hashes: Hashes, *, distinct: bool) -> bool:
        """See `HeldIds.add`."""
        slots = self.ids.insert(hashes, distinct=distinct)
        if slots is None:
            return False
        self._seat(chunk, Seat(self.ids, -1, slots))
        return True

    def replace(self, whole: Holder, parts: Iterable[Holder]) -> None:
        """See `HeldIds.replace`."""
        self._unseat(whole)
        for part in parts:
            assert part.seat is not None
            self._seat(part, part.seat)

    def remove(self, chunk: Holder) -> None:
        """Take its rows out."""
        self.ids.remove(self._unseat(chunk).slots)

    def _seat(self, chunk: Holder, seat: Seat) -> None:
        number = self._free.pop() if self._free else len(self.chunks)
        self.chunks[number] = chunk
        self.ids.assign(seat.slots, number)
        chunk.seat = Seat(self.ids, number, seat.slots)

    def _unseat(self, chunk: Holder) -> Seat:
        seat, chunk.seat = chunk.seat, None
        assert seat is not None
        del self.chunks[seat.number]
        self._free.append(seat.number)
        return seat


def single(rows: pa.RecordBatch, ack_ids: pa.Array) -> tuple[pa.RecordBatch, pa.Array]:
    """Each message once: in the place of its first delivery, with the ack ID of the last. All that have no ID."""
    message_ids = rows.column("message_id")
    numbers = message_ids.dictionary_encode(null_encoding="encode").indices.to_numpy(zero_copy_only=False)
    first, last = _edges(numbers)
    unnamed = pc.equal(pc.fill_null(pc.binary_length(message_ids), 0), 0).to_numpy(zero_copy_only=False)
    positions = np.arange(len(numbers))
    keep = (first == positions) | unnamed
    newest = np.where(unnamed, positions, last)[keep]
    return rows.filter(pa.array(keep)), ack_ids.take(pa.array(newest))


def _edges(numbers: Rows) -> tuple[Rows, Rows]:
    """For each row the first and the last row with the same number."""
    positions = np.arange(len(numbers))
    first, last = np.empty_like(positions), np.empty_like(positions)
    first[numbers[::-1]] = positions[::-1]
    last[numbers] = positions
    return first[numbers], last[numbers]


def _verified(match: Match[Holder], rows: pa.RecordBatch, columns: Sequence[str]) -> Match[Holder]:
    """Those that are the same message in truth."""
    held, asked = pa.array(match.held), pa.array(match.asked)
    same = np.ones(len(held), bool)
    for name in columns:
        equal = pc.equal(match.chunk.rows.column(name).take(held), rows.column(name).take(asked))
        same &= equal.fill_null(True).to_numpy(zero_copy_only=False)
    return Match(match.chunk, match.held[same], match.asked[same])
