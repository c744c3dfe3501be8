"""A hash table of the message IDs that are held, asked by column: which of these rows are here, and in which chunk.

Buckets of 16 entries, each bucket one line of the processor's cache, so that asking for a row costs one access to
memory and no loop over rows in Python; an entry is 32 bits of the ID's hash (0: free) beside the number of its chunk.
An ID whose bucket is full is in its other bucket. Entries are taken out one by one, so nothing is ever swept or built
anew while messages come and go. What is found is a suspicion: whoever asks compares the strings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.reservoir.budget import Share

Hashes = NDArray[np.uint64]
Rows = NDArray[np.intp]
Slots = NDArray[np.uint32]

WAYS = 16
"""Entries of a bucket: 16 of 4 bytes are the 64 of a cache line."""

SLOT_BYTES = 4
"""A chunk keeps the slot of each row."""

FILL = 0.5
"""How full a table may get. At 8 of 16 one bucket in 250 overflows into another one (a Poisson distribution)."""

MOST_MOVES = 64
"""Rows that meet in a bucket take their places one after the other. At `FILL` a few rounds are enough; this many mean
that both buckets of an ID are full."""

# The first 32 bytes and the length are hashed; the service's IDs have 16 to 19 digits. Longer ones that differ behind
# cost a comparison of strings.
_WORDS = 4
_MASKS = np.array([(1 << (8 * octets)) - 1 for octets in range(9)], np.uint64)
_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
"""The constants of splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014)."""

# For each pattern of free entries of a bucket the lowest one; `WAYS` for none.
_LOWEST = np.full(1 << WAYS, WAYS, np.uint8)
for _way in reversed(range(WAYS)):
    _LOWEST.reshape(-1, 2, 1 << _way)[:, 1] = _way


@dataclass(frozen=True, slots=True)
class Seat:
    """Where the IDs of a chunk are: the table, the chunk's number there, and a slot for each row."""

    table: IdTable
    number: int
    slots: Slots

    def part(self, rows: slice | NDArray[np.bool_]) -> Seat:
        """Of some of the rows. For as long as nobody numbers it anew it has the number of the whole."""
        return Seat(self.table, self.number, self.slots[rows])


class TableFull(Exception):
    """Both buckets of an ID are full: a larger table is needed."""


def hashes_of(message_ids: pa.Array) -> Hashes:
    """A 64-bit hash of each string, in a few native calls; 0 for the empty string and for null, which are no IDs."""
    rows = len(message_ids)
    offsets = np.frombuffer(message_ids.buffers()[1], np.int32, rows + 1, message_ids.offset * 4).astype(np.intp)
    first, size = int(offsets[0]), int(offsets[-1] - offsets[0])
    if size == 0:
        return np.zeros(rows, np.uint64)
    octets = np.zeros(size + 8, np.uint8)
    octets[:size] = np.frombuffer(message_ids.buffers()[2], np.uint8, size, first)
    # Eight octets from any place on as one number: a row of this overlaps the seven after it.
    words = np.lib.stride_tricks.as_strided(octets, (size + 1, 8), (1, 1))
    starts, lengths = offsets[:-1] - first, np.diff(offsets)
    longest, shortest = int(lengths.max()), int(lengths.min())
    hashes: Hashes = lengths.astype(np.uint64) * _ODD
    for begin in range(0, min(longest, 8 * _WORDS), 8):
        places = starts + begin if begin <= shortest else np.minimum(starts + begin, size)
        word = words[places].view("<u8")[:, 0]
        if begin + 8 > shortest:
            word &= _MASKS[np.clip(lengths - begin, 0, 8)]
        hashes ^= word
        hashes *= _MIX[0]
        hashes ^= hashes >> np.uint64(29)
    hashes *= _MIX[1]
    hashes ^= hashes >> np.uint64(32)
    hashes |= np.uint64(1)  # a one-byte string must not look like none
    if shortest == 0:
        hashes[lengths == 0] = 0
    return hashes


class IdTable:
    """Room for `rows` IDs at least; its memory counts against the share as long as it lives.

    A slot is a bucket * 16 + an entry of it. The last slot of all is for rows without an ID, and never found.
    """

    def __init__(self, rows: int, share: Share) -> None:
        buckets = 1 << max(-(-rows // int(WAYS * FILL)) - 1, 1).bit_length()
        self.capacity = int(buckets * WAYS * FILL)
        self.rows = 0
        self._bits = np.uint64(64 - (buckets.bit_length() - 1))
        self._nobody = buckets * WAYS
        self._prints = np.zeros(self._nobody + 1, np.uint32)
        self._owners = np.zeros(self._nobody + 1, np.uint32)
        self._lines = self._prints[:-1].reshape(buckets, WAYS)
        self._spilled = np.zeros(buckets, bool)
        self._spills = False
        self._claim = share.claim(self._prints.nbytes + self._owners.nbytes + self._spilled.nbytes)

    def __repr__(self) -> str:
        """Such as `<IdTable 1000 of 8192 rows>`."""
        return f"<IdTable {self.rows} of {self.capacity} rows>"

    def find(self, hashes: Hashes) -> tuple[Rows, Slots]:
        """Pairs of a row asked for and a slot that may hold its ID; a row may be in several pairs."""
        if not hashes.all():
            named = np.flatnonzero(hashes)
            rows, slots = self.find(hashes[named])
            return named[rows], slots
        home, prints = self._home(hashes)
        rows, slots = self._matches(home, prints)
        if self._spills and len(spilled := np.flatnonzero(self._spilled[home])):
            again, others = self._matches(self._other(home[spilled], hashes[spilled]), prints[spilled])
            rows, slots = np.concatenate([rows, spilled[again]]), np.concatenate([slots, others])
        return rows, slots

    def insert(self, hashes: Hashes, *, distinct: bool = False) -> Slots | None:
        """A slot for each row; None, with nothing inserted, if two rows have one hash (unless they are `distinct`).

        Rows that want one entry all write their number beside it, one of them stays, and the others look again. Raises
        `TableFull`, with nothing inserted.
        """
        home, prints = self._home(hashes)
        slots = np.full(len(hashes), self._nobody, np.intp)
        rows, buckets = np.arange(len(hashes)), home
        if not hashes.all():
            rows = np.flatnonzero(hashes)
            buckets = home[rows]
        for _ in range(MOST_MOVES):
            free = np.packbits(self._lines[buckets].ravel() == 0, bitorder="little").view("<u2")
            entries = _LOWEST[free]
            wanted = buckets * WAYS + entries
            if len(full := np.flatnonzero(entries == WAYS)):
                self._spills = True
                self._spilled[buckets[full]] = True
                buckets = buckets.copy()
                buckets[full] = self._other(buckets[full], hashes[rows[full]])
                wanted[full] = self._nobody
            self._owners[wanted] = rows
            stay = self._owners[wanted]
            won = (stay == rows) & (wanted != self._nobody)
            slots[rows[won]] = wanted[won]
            self._prints[wanted[won]] = prints[rows[won]]
            if won.all():
                self.rows += len(slots)
                return slots.astype(np.uint32)
            lost = ~won
            alike = (hashes[stay[lost]] == hashes[rows[lost]]) & (stay[lost] != rows[lost])
            if not distinct and alike.any():
                self._prints[slots] = 0
                return None
            rows, buckets = rows[lost], buckets[lost]
        self._prints[slots] = 0
        raise TableFull(f"{self!r}: no room for {len(rows)} of {len(hashes)} rows")

    def assign(self, slots: Slots, owner: int) -> None:
        """These rows are in the chunk of that number now."""
        self._owners[slots] = owner

    def owners(self, slots: Slots) -> NDArray[np.uint32]:
        """The chunk's number of each."""
        found: NDArray[np.uint32] = self._owners[slots]
        return found

    def remove(self, slots: Slots) -> None:
        """These rows are held no more."""
        self._prints[slots] = 0
        self.rows -= len(slots)

    def _home(self, hashes: Hashes) -> tuple[Rows, NDArray[np.uint32]]:
        """The bucket, from the upper bits, and the lower 32, of which the last is always 1."""
        return (hashes >> self._bits).astype(np.intp), hashes.astype(np.uint32)

    def _other(self, buckets: Rows, hashes: Hashes) -> Rows:
        """The other bucket, and of that one the first again."""
        return buckets ^ ((hashes >> np.uint64(1)).astype(np.intp) & (len(self._lines) - 1) | 1)

    def _matches(self, buckets: Rows, prints: NDArray[np.uint32]) -> tuple[Rows, Slots]:
        same = self._lines[buckets] == prints[:, None]
        if not same.any():
            return _NO_ROWS, _NO_SLOTS
        rows, entries = np.nonzero(same)
        return rows, (buckets[rows] * WAYS + entries).astype(np.uint32)


_NO_ROWS = np.empty(0, np.intp)
_NO_SLOTS = np.empty(0, np.uint32)
