"""A hash table of the message IDs that are held, asked by column: which of these rows are here, and in which chunk.

Buckets of 16 entries, each bucket one line of the processor's cache, so that asking for a row costs one access to
memory and no loop over rows in Python; an entry is 32 bits of the ID's hash (0: free) beside the number of its chunk.
A bucket that is full sends IDs on to the next one of their way. Entries are taken out one by one, so nothing is swept
or built anew while messages come and go. What is found is a suspicion: whoever asks compares the strings.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
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

WORN = 1 / 32
"""Of all buckets: those that send IDs on keep doing so, though they may have room again."""

# The first 128 bytes and the length are hashed; the service's IDs have 16 to 19 digits. Longer ones that differ behind
# are one to whoever does not compare the strings.
_WORDS = 16
_MASKS = np.array([(1 << (8 * octets)) - 1 for octets in range(9)], np.uint64)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
"""The constants of splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014)."""

_HALF = np.uint64(32)
_ONE = np.uint64(1)
"""Every hash is odd, and so is its lower half, which is an entry: 0 is for free ones."""

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


def hashes_of(message_ids: pa.Array) -> Hashes:
    """A 64-bit hash of each string, in a few native calls.

    The empty string and null, which are no IDs, have another one each time, so that nobody finds them.
    """
    rows = len(message_ids)
    offsets = np.frombuffer(message_ids.buffers()[1], np.int32, rows + 1, message_ids.offset * 4)
    first, size = int(offsets[0]), int(offsets[-1] - offsets[0])
    if size == 0:
        return _nothing_alike(rows)
    lengths = offsets[1:] - offsets[:-1]
    octets = np.zeros(size + 8, np.uint8)
    octets[:size] = np.frombuffer(message_ids.buffers()[2], np.uint8, size, first)
    length = size // rows
    # As many octets as rows * length: then one of another length shows, and the strings are one after the other.
    alike = size == rows * length and bool((lengths == length).all())
    words = _words_of_equals(octets, rows, length) if alike else _words(octets, offsets[:-1] - first, lengths)
    hashes: Hashes = lengths.astype(np.uint64)
    for index, word in enumerate(words):
        mixed = (hashes ^ word) * _MIX[0]
        mixed ^= mixed >> _HALF
        # A string hashes the same beside longer ones: what it does not have is not mixed in.
        hashes = mixed if alike else np.where(lengths > 8 * index, mixed, hashes)
    hashes *= _MIX[1]
    hashes ^= hashes >> _HALF
    hashes |= _ONE
    if not alike and not lengths.all():
        unnamed = np.flatnonzero(lengths == 0)
        hashes[unnamed] = _nothing_alike(len(unnamed))
    return hashes


def _nothing_alike(rows: int) -> Hashes:
    return np.frombuffer(os.urandom(8 * rows), np.uint64) | _ONE


def _words_of_equals(octets: np.ndarray, rows: int, length: int) -> Iterator[Hashes]:
    """Eight octets of each string as a number, and the next eight. All strings are as long: no gathering is needed."""
    for begin in range(0, min(length, 8 * _WORDS), 8):
        word: Hashes = np.ndarray((rows,), "<u8", octets, begin, (length,))
        yield word if length - begin >= 8 else word & _MASKS[length - begin]


def _words(octets: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> Iterator[Hashes]:
    """The same for strings of any length; eight octets from any place on are gathered as one number."""
    anywhere: Hashes = np.ndarray((len(octets) - 7,), "<u8", octets, strides=(1,))
    for begin in range(0, min(int(lengths.max()), 8 * _WORDS), 8):
        word = anywhere[np.minimum(starts + begin, len(anywhere) - 1)]
        yield word & _MASKS[np.clip(lengths - begin, 0, 8)]


class IdTable:
    """Room for `rows` IDs at least; its memory counts against the share as long as it lives.

    A slot is a bucket * 16 + an entry of it. The last slot of all is nobody's, and never looked at.
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
        self._spills = 0
        self._claim = share.claim(self._prints.nbytes + self._owners.nbytes + self._spilled.nbytes)

    def __repr__(self) -> str:
        """Such as `<IdTable 1000 of 8192 rows>`."""
        return f"<IdTable {self.rows} of {self.capacity} rows>"

    @property
    def worn(self) -> bool:
        """Whether so many buckets were full once that a new table is better: who asks has to look behind each."""
        return self._spills > WORN * len(self._lines)

    def find(self, hashes: Hashes) -> tuple[Rows, Slots]:
        """Pairs of a row asked for and a slot that may hold its ID; a row may be in several pairs."""
        buckets, prints = self._home(hashes)
        found = [self._matches(None, buckets, prints)]
        rows = None
        while self._spills and len(on := self._spilled[buckets].nonzero()[0]):
            rows = on if rows is None else rows[on]
            hashes, prints = hashes[on], prints[on]
            buckets = self._next(buckets[on], hashes)
            found.append(self._matches(rows, buckets, prints))
        if len(found) == 1:
            return found[0]
        return np.concatenate([of for of, _ in found]), np.concatenate([slots for _, slots in found])

    def insert(self, hashes: Hashes, *, distinct: bool = False) -> Slots | None:
        """A slot for each row, none of whose IDs is here; `capacity` must not be exceeded.

        None, with nothing inserted, if two rows have one hash, unless they are known to be `distinct`. Rows that want
        one entry all write their number beside it, the last one stays, and the others look again.
        """
        buckets, prints = self._home(hashes)
        rows = np.arange(len(hashes), dtype=np.uint32)
        slots = np.full(len(hashes), self._nobody, np.uint32)
        while True:
            wanted, full = self._free(buckets)
            self._owners[wanted] = rows
            self._prints[wanted] = prints
            stay = self._owners[wanted]
            lost = (stay != rows).nonzero()[0]
            if not distinct and len(lost) and self._same(hashes, rows[lost], stay[lost], wanted[lost]):
                self._prints[slots] = 0
                self._prints[wanted] = 0
                return None
            if len(rows) == len(slots):
                slots = wanted.astype(np.uint32)
            else:
                slots[rows] = wanted
            if len(full):
                over = np.unique(buckets[full])
                self._spills += len(over) - int(self._spilled[over].sum())
                self._spilled[over] = True
                buckets[full] = self._next(buckets[full], hashes[rows[full]])
                lost = np.union1d(lost, full)
            if not len(lost):
                self.rows += len(slots)
                return slots
            rows, buckets, prints = rows[lost], buckets[lost], prints[lost]

    def _same(self, hashes: Hashes, lost: Slots, stay: Slots, wanted: Rows) -> bool:
        """Whether rows that lost an entry have the hash of the row that got it."""
        return bool(((hashes[lost] == hashes[stay]) & (wanted != self._nobody)).any())

    def _free(self, buckets: Rows) -> tuple[Rows, Rows]:
        """A free slot in each bucket, nobody's where there is none; and where there is none."""
        free = np.packbits(self._lines.take(buckets, axis=0).ravel() == 0, bitorder="little").view("<u2")
        wanted = buckets * WAYS + _LOWEST[free]
        if free.all():
            return wanted, _NO_ROWS
        full = (free == 0).nonzero()[0]
        wanted[full] = self._nobody
        return wanted, full

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
        """The bucket, from the upper bits, and the entry, the lower 32."""
        return (hashes >> self._bits).view(np.intp), hashes.astype(np.uint32)

    def _next(self, buckets: Rows, hashes: Hashes) -> Rows:
        """Where to look when these are full: steps of an odd width, which lead through all buckets."""
        most = len(self._lines) - 1
        return (buckets + ((hashes >> np.uint64(1)).astype(np.intp) | 1)) & most

    def _matches(self, rows: Rows | None, buckets: Rows, prints: NDArray[np.uint32]) -> tuple[Rows, Slots]:
        # `take`, which copies a line at once; indexing goes entry by entry and takes ten times as long.
        same = self._lines.take(buckets, axis=0) == prints[:, None]
        if not same.any():
            return _NO_ROWS, _NO_SLOTS
        places, entries = np.nonzero(same)
        return places if rows is None else rows[places], (buckets[places] * WAYS + entries).astype(np.uint32)


_NO_ROWS = np.empty(0, np.intp)
_NO_SLOTS = np.empty(0, np.uint32)
