"""The files of rows: each chunk is one Arrow IPC message, appended once, then read as mapped memory.

A subscription fills one segment after the other. A segment goes when it is full and nothing refers to its chunks. Its
size is set from the start, so that one mapping serves all of it; what is not written yet takes no space. One that is
gone is filled again if nobody reads it: new pages cost more than writing them.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import xxhash

from penstock.contract import ROWS_SCHEMA
from penstock.reservoir.kept import Copy, Place
from penstock.storage.folder import sync_file, sync_folder
from penstock.storage.ports import Damaged

SEGMENT_BYTES = 64 << 20
"""One chunk that is held keeps a whole segment: small against a budget of a GiB. Making a file takes some 0.1 ms."""

SYNC_BYTES = 16 << 20
"""This much is not left unsynced, so that a seal waits for less than that: 0.1 s at 160 MB/s."""

SPARES = 2
"""Files that are kept to be filled again while there is work. They take space that no batch has."""

_ALIGN = 64
_PLAIN = ROWS_SCHEMA.append(pa.field("ack_id", pa.string()))
_BUCKETED = _PLAIN.append(pa.field("bucket", pa.uint8()))
_COLUMNS = len(ROWS_SCHEMA)


@dataclass(eq=False)
class _Segment:
    number: int
    path: Path
    file: int
    mapping: mmap.mmap
    memory: pa.Buffer
    used_bytes: int = 0
    unsynced_bytes: int = 0
    chunks: int = 0
    full: bool = False


@dataclass(frozen=True)
class _Spare:
    """A file that nobody reads or will read."""

    path: Path
    file: int


class Segments:
    """All files of rows; satisfies `ports.RowFiles`. Every method blocks, and raises `OSError`, `StoreFailed`.

    Files that are not `named` have no name in their folder from the start, so that whatever ends the process ends them.
    """

    def __init__(self, folder: Path, *, fsync: bool, after: int = 0, named: bool = True) -> None:
        self._folder = folder
        self._named = named
        self._fsync = fsync
        self._last = after
        self._all: dict[int, _Segment] = {}
        self._open: dict[str, _Segment] = {}
        self._spares: list[_Spare] = []
        self.written_bytes = 0

    def __len__(self) -> int:
        """Files."""
        return len(self._all)

    def write(self, subscription: str, rows: Copy) -> tuple[Place, Copy]:
        """Append a chunk; where it is, and the same rows in mapped memory."""
        schema = _PLAIN if rows.buckets is None else _BUCKETED
        columns = [*rows.rows.columns, rows.ack_ids]
        if rows.buckets is not None:
            columns.append(pa.array(rows.buckets))
        raw = pa.RecordBatch.from_arrays(columns, schema=schema).serialize()
        segment = self._room(subscription, raw.size)
        at = segment.used_bytes
        view = memoryview(raw)
        checksum = xxhash.xxh3_64_intdigest(view)
        while view:
            done = os.pwrite(segment.file, view, at)
            view, at = view[done:], at + done
        place = Place(segment.number, segment.used_bytes, raw.size, checksum, rows.buckets is not None)
        segment.used_bytes += -(-raw.size // _ALIGN) * _ALIGN
        segment.unsynced_bytes += raw.size
        segment.chunks += 1
        self.written_bytes += raw.size
        if segment.unsynced_bytes >= SYNC_BYTES:
            self._sync(segment)
        return place, _mapped(segment.memory, place)

    def finish(self, subscription: str) -> None:
        """Nothing more of it comes into the segment that is being filled, which goes with the last chunk in it."""
        segment = self._open.pop(subscription, None)
        if segment is not None:
            self._finish(segment)

    def sync(self) -> None:
        """Make durable what was written."""
        for segment in self._open.values():
            self._sync(segment)

    def free(self, number: int) -> None:
        """One chunk of a segment is not referred to any more."""
        segment = self._all[number]
        segment.chunks -= 1
        if segment.full and not segment.chunks:
            self._remove(segment)

    def close_unused(self) -> None:
        """Remove the files that hold nothing that counts; for when there is no work."""
        while self._spares:
            spare = self._spares.pop()
            os.close(spare.file)
            spare.path.unlink(missing_ok=True)
        for subscription, segment in list(self._open.items()):
            if not segment.chunks:
                del self._open[subscription]
                self._finish(segment)

    def find(self, place: Place) -> Copy:
        """What a process before this one wrote. Raises `Damaged`, and `OSError` where that cannot be told now."""
        segment = self._all.get(place.segment) or self._map(place.segment)
        if place.offset + place.length > segment.memory.size:
            raise Damaged(f"{segment.path} ends at {segment.memory.size}, before byte {place.offset + place.length}")
        if xxhash.xxh3_64_intdigest(_read(segment.path, place)) != place.checksum:
            raise Damaged(f"the checksum of {segment.path} at byte {place.offset} is wrong")
        try:
            return _mapped(segment.memory, place)
        except pa.ArrowException as error:
            raise Damaged(f"{segment.path} at byte {place.offset} is not Arrow data: {error}") from error

    def hold(self, number: int) -> None:
        """A chunk that was found is referred to."""
        self._all[number].chunks += 1

    def remove_others(self) -> None:
        """Remove the files of which nothing is referred to, once all that counts was found."""
        for path in self._folder.glob("*.seg"):
            segment = self._all.get(_number(path))
            if segment is None:
                path.unlink()
            elif not segment.chunks:
                self._remove(segment)
        if self._fsync:
            sync_folder(self._folder)

    def close(self) -> None:
        """Close all files. What is mapped stays mapped for who reads it."""
        for spare in self._spares:
            os.close(spare.file)
        for segment in self._all.values():
            if segment.file >= 0:
                os.close(segment.file)

    def _room(self, subscription: str, size_bytes: int) -> _Segment:
        """The segment being filled, or a new one when that has not enough room."""
        segment = self._open.get(subscription)
        if segment is not None and segment.used_bytes + size_bytes <= segment.memory.size:
            return segment
        fresh = self._create(max(SEGMENT_BYTES, size_bytes))
        self._open[subscription] = fresh
        if segment is not None:
            self._finish(segment)
        return fresh

    def _create(self, size_bytes: int) -> _Segment:
        number = self._last + 1
        path = self._folder / f"{number:08d}.seg"
        if self._spares and size_bytes == SEGMENT_BYTES:
            spare = self._spares.pop()
            spare.path.rename(path)
            file = spare.file
        else:
            file = self._new_file(path)
        try:
            os.ftruncate(file, size_bytes)
            mapping = mmap.mmap(file, size_bytes, prot=mmap.PROT_READ)
            if self._fsync:
                sync_folder(self._folder)
        except OSError:
            os.close(file)
            self._delete(path)
            raise
        self._last = number
        segment = self._all[number] = _Segment(number, path, file, mapping, pa.py_buffer(mapping))
        return segment

    def _new_file(self, path: Path) -> int:
        if self._named:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        # In a folder that others use as well: never under a name that could be guessed, or be theirs.
        with tempfile.TemporaryFile(dir=self._folder) as file:
            return os.dup(file.fileno())

    def _delete(self, path: Path) -> None:
        if self._named:
            path.unlink(missing_ok=True)

    def _finish(self, segment: _Segment) -> None:
        """Nothing more comes into it."""
        segment.full = True
        if not segment.chunks:
            self._remove(segment)
        else:
            self._sync(segment)

    def _remove(self, segment: _Segment) -> None:
        del self._all[segment.number]
        spare = self._named and len(self._spares) < SPARES
        if segment.file >= 0 and segment.mapping.size() == SEGMENT_BYTES and spare:
            del segment.memory
            try:
                segment.mapping.close()
            except BufferError:  # somebody is still reading
                pass
            else:
                self._spares.append(_Spare(segment.path, segment.file))
                return
        if segment.file >= 0:
            os.close(segment.file)
        self._delete(segment.path)

    def _sync(self, segment: _Segment) -> None:
        if self._fsync and segment.unsynced_bytes:
            sync_file(segment.file)
        segment.unsynced_bytes = 0

    def _map(self, number: int) -> _Segment:
        path = self._folder / f"{number:08d}.seg"
        try:
            with path.open("rb") as file:
                if self._fsync:  # who wrote it may have run without
                    sync_file(file.fileno())
                mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        # An empty file cannot be mapped. What else fails, such as for want of memory, says nothing of the rows.
        except (FileNotFoundError, ValueError) as error:
            raise Damaged(f"{path} cannot be read: {error}") from error
        segment = self._all[number] = _Segment(number, path, -1, mapping, pa.py_buffer(mapping), full=True)
        return segment


def last_number(folder: Path) -> int:
    """The highest number of a segment in a folder, so that none is given twice."""
    return max((_number(path) for path in folder.glob("*.seg")), default=0)


def _read(path: Path, place: Place) -> bytes:
    """The bytes of a place. Not from the mapping, where a sector that cannot be read would end the process (SIGBUS)."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(file, place.length, place.offset)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise Damaged(f"{path} cannot be read at byte {place.offset}: {error.strerror}") from error
    finally:
        os.close(file)


def _number(path: Path) -> int:
    return int(path.stem) if path.stem.isdigit() else -1


def _mapped(memory: pa.Buffer, place: Place) -> Copy:
    schema = _BUCKETED if place.bucketed else _PLAIN
    found = pa.ipc.read_record_batch(memory.slice(place.offset, place.length), schema)
    rows = pa.RecordBatch.from_arrays(found.columns[:_COLUMNS], schema=ROWS_SCHEMA)
    buckets = found.column("bucket").to_numpy() if place.bucketed else None
    return Copy(rows, found.column("ack_id"), buckets)
