"""The disk under one daemon: what a killed process leaves on it, and how much less a machine that lost its power.

Satisfies `storage.ports.Disk`, so that the product decides what is written, in which order, and what becomes of what is
found. The journal is bytes, framed and read by the product. Rows are kept as they are, each chunk marked as synced or
not: what was not may be gone, or wrong, when the machine comes back.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from penstock.reservoir.kept import Copy, Place
from penstock.storage.framing import Record, Replay, framed, framed_anew, replayed
from penstock.storage.ports import Damaged, StoreFailed

CHUNKS_PER_FILE = 4
"""Few, so that files come and go within one seed."""

REWRITE_BYTES = 4096
"""A journal of some twenty decisions is written anew."""


class Killed(Exception):
    """The process ended in the middle of a write."""


@dataclass
class Chunk:
    """Rows at one place. `synced`: a machine's crash does not touch them."""

    copy: Copy
    synced: bool = False
    damaged: bool = False


@dataclass
class File:
    """A file of rows, in the order in which they were written."""

    chunks: list[Chunk] = field(default_factory=list)


class Disk:
    """One folder, whatever process has it open.

    `full_for_rows` and `full_for_decisions` say what finds no room now; `kill_in` operations the process is killed, in
    the middle of the one; `sync_fails` makes the next sync the last thing that the process does.
    """

    def __init__(self, rng: random.Random, site: str, *, fsync: bool, is_memory: bool) -> None:
        self.path = f"/data/{site}"
        self.fsync = fsync
        self.is_memory = is_memory
        self.boot = "boot-1"
        self.full_for_rows = self.full_for_decisions = False
        self.kill_in: int | None = None
        self.sync_fails = False
        self.raw = b""
        self.safe_bytes = 0
        self.files: dict[int, File] = {}
        self.injured: set[tuple[int, int]] = set()
        self._rng = rng
        self._boots = 1

    # --- storage.ports.Disk -------------------------------------------------------------------------------------

    def free(self) -> str:
        """For people."""
        return "none free" if self.full_for_rows else "some free"

    def replay(self) -> Replay:
        """What the journal holds now."""
        return replayed(self.raw, self.path, self.boot)

    def clear(self) -> None:
        """Another node begins here."""
        self.raw, self.safe_bytes = b"", 0
        self.files.clear()
        self.injured.clear()

    def rows(self, last: int) -> Rows:
        """A process has opened the files of rows."""
        return Rows(self, max([last, *self.files]))

    def decisions(self, end: int) -> Decisions:
        """A process has opened the journal."""
        return Decisions(self, end)

    # --- what goes wrong ----------------------------------------------------------------------------------------

    def room(self, *, full: bool) -> None:
        """Before each write: there may be no room for it."""
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def dies(self) -> bool:
        """Whether the process is killed in this operation."""
        if self.kill_in is not None:
            self.kill_in -= 1
        return self.kill_in is not None and self.kill_in < 0

    def sync(self) -> None:
        """Before each sync. One that fails may have lost all that it was to make durable."""
        if self.dies():
            raise Killed
        if self.fsync and self.sync_fails:
            self._lose_unsynced()
            raise StoreFailed("a sync failed")

    def lose_power(self) -> None:
        """The machine ends and starts again: of what was not synced, anything may be there."""
        self._boots += 1
        self.boot = f"boot-{self._boots}"
        if self.is_memory:
            self.clear()
        self._lose_unsynced()

    def injure(self) -> bool:
        """A sector goes bad under rows that were written."""
        places = [(number, at) for number, file in self.files.items() for at in range(len(file.chunks))]
        if not places:
            return False
        number, at = self._rng.choice(places)
        self.files[number].chunks[at].damaged = True
        self.injured.add((number, at))
        return True

    def _lose_unsynced(self) -> None:
        tail = bytearray(self.raw[self.safe_bytes :])
        if tail:
            del tail[self._rng.randrange(len(tail) + 1) :]
        if tail and self._rng.random() < 0.5:  # sectors reach the disk in any order
            at = self._rng.randrange(len(tail))
            tail[at : at + 16] = bytes(len(tail[at : at + 16]))
        self.raw = self.raw[: self.safe_bytes] + bytes(tail)
        for file in self.files.values():
            for chunk in file.chunks:
                chunk.damaged |= not chunk.synced and self._rng.random() < 0.5
        for number in [number for number, file in self.files.items() if not any(c.synced for c in file.chunks)]:
            if self._rng.random() < 0.5:
                del self.files[number]


class Decisions:
    """Satisfies `ports.DecisionFile` for one process."""

    def __init__(self, disk: Disk, end: int) -> None:
        self._disk = disk
        self._end = self._durable = end
        self._rewritten = 0
        disk.raw = disk.raw[:end]
        disk.safe_bytes = min(disk.safe_bytes, end)

    @property
    def grown(self) -> bool:
        """Whether it is time to `rewrite`."""
        return self._end > max(REWRITE_BYTES, 2 * self._rewritten)

    def append(self, records: Iterable[Record]) -> None:
        """Some of it is there when the process is killed in the middle."""
        disk = self._disk
        raw = framed(records, self._durable)
        if disk.dies():
            disk.raw = disk.raw[: self._end] + raw[: disk._rng.randrange(len(raw) + 1)]
            raise Killed
        disk.room(full=disk.full_for_decisions)
        disk.raw = disk.raw[: self._end] + raw
        self._end += len(raw)

    def sync(self) -> None:
        """Without `fsync` nothing is safe from the machine's end."""
        self._disk.sync()
        if self._disk.fsync:
            self._disk.safe_bytes = self._end
        self._durable = self._end

    def rewrite(self, records: Iterable[Record]) -> None:
        """A file beside the old one, synced and renamed: the one or the other is there."""
        disk = self._disk
        raw = framed_anew(records)
        if disk.dies():
            raise Killed
        disk.room(full=disk.full_for_rows)
        disk.sync()
        disk.raw, disk.safe_bytes = raw, len(raw)
        self._end = self._durable = self._rewritten = len(raw)


class Rows:
    """Satisfies `ports.RowFiles` for one process: counts what refers to the chunks of each file."""

    def __init__(self, disk: Disk, last: int) -> None:
        self._disk = disk
        self._last = last
        self._open: dict[str, int] = {}
        self._counts: dict[int, int] = {}

    def write(self, subscription: str, rows: Copy) -> tuple[Place, Copy]:
        """At the end of the subscription's file, or in a new one."""
        disk = self._disk
        if disk.dies():
            raise Killed
        disk.room(full=disk.full_for_rows)
        number = self._open.get(subscription)
        if number is None or len(disk.files[number].chunks) >= CHUNKS_PER_FILE:
            self._last += 1
            self._open[subscription] = self._last
            disk.files[self._last], self._counts[self._last] = File(), 0
            # A number may have been that of a file that is gone, with all that was wrong with it.
            disk.injured = {place for place in disk.injured if place[0] != self._last}
            if number is not None and not self._counts[number]:
                self._remove(number)
            number = self._last
        chunks = disk.files[number].chunks
        place = Place(number, len(chunks), rows.rows.num_rows, 0, rows.buckets is not None)
        chunks.append(Chunk(rows))
        self._counts[number] += 1
        return place, rows

    def sync(self) -> None:
        """All that was written, as long as its file is there."""
        self._disk.sync()
        if self._disk.fsync:
            for number in self._counts:
                for chunk in self._disk.files[number].chunks:
                    chunk.synced = True

    def free(self, number: int) -> None:
        """A file that is full and empty goes."""
        self._counts[number] -= 1
        if not self._counts[number] and number not in self._open.values():
            self._remove(number)

    def close_unused(self) -> None:
        """A file that is empty goes."""
        for subscription, number in list(self._open.items()):
            if not self._counts[number]:
                del self._open[subscription]
                self._remove(number)

    def find(self, place: Place) -> Copy:
        """As it was written."""
        file = self._disk.files.get(place.segment)
        if file is None or place.offset >= len(file.chunks) or file.chunks[place.offset].damaged:
            raise Damaged(f"file {place.segment} is not what it was at {place.offset}")
        return file.chunks[place.offset].copy

    def hold(self, number: int) -> None:
        """A chunk that was found is referred to."""
        self._counts[number] = self._counts.get(number, 0) + 1

    def remove_others(self) -> None:
        """What nothing refers to."""
        for number in [number for number in self._disk.files if number not in self._counts]:
            del self._disk.files[number]

    def _remove(self, number: int) -> None:
        if self._disk.dies():
            raise Killed
        del self._counts[number]
        del self._disk.files[number]
