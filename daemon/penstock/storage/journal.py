"""The file of decisions: appended to, checksummed, and written anew when it has grown.

A record is a magic number, the length and CRC-32 of what follows, how much of the file was durable when it was
written, and JSON. Space is allocated ahead and filled with zeros, so that a decision can still be written when rows
fill the disk (their acknowledgement is what makes room again), and so that a sync need not write the file's length too.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from penstock.errors import InvalidOption
from penstock.storage.folder import sync_file, sync_folder

Record: TypeAlias = dict[str, Any]

_HEADER = struct.Struct("<4sIIQ")
_MAGIC = b"\xf1PJ1"
"""Its first byte is in no UTF-8 text, so none of our JSON looks like a record."""

AHEAD_BYTES = 1 << 20
"""Allocated beyond the end. The commits and acks of some thousand batches take that much; a seal of one batch takes
about 50 bytes for each of its chunks."""

REWRITE_BYTES = 8 << 20
"""Beyond this, and four times what it was after the last rewrite, the journal is written anew: replaying 8 MiB takes
about 0.1 s."""


@dataclass(frozen=True)
class Replay:
    """What a journal held: its records, where they end, and the bytes behind them that were cut off."""

    records: list[Record]
    end: int
    torn_bytes: int


def replay(path: Path) -> Replay:
    """Read a journal up to its first bad record.

    What is bad at the end was being written when the machine stopped: nobody was told of it. Raises `InvalidOption`
    when it was durable once, as a later record tells: then decisions are missing, and whatever was made of the rest
    would be a guess.
    """
    raw = path.read_bytes() if path.exists() else b""
    records: list[Record] = []
    at = 0
    while (found := _record_at(raw, at)) is not None:
        record, at, _ = found
        records.append(record)
    tail = raw[at:].rstrip(b"\0")
    later = at
    while (later := raw.find(_MAGIC, later + 1)) >= 0:
        found = _record_at(raw, later)
        if found is not None and found[2] > at:
            raise InvalidOption(
                f"the journal {path} is damaged at byte {at}: a decision that was safe on the disk cannot be read, and "
                "what follows must not be used without it. Move the data_dir away and start again: its messages come "
                "again from Pub/Sub"
            )
    return Replay(records, at, len(tail))


def _record_at(raw: bytes, at: int) -> tuple[Record, int, int] | None:
    """A whole record, where it ends, and how much was durable before it; None when there is none."""
    if len(raw) - at < _HEADER.size:
        return None
    magic, length, crc, durable = _HEADER.unpack_from(raw, at)
    start = at + _HEADER.size
    if magic != _MAGIC or start + length > len(raw):
        return None
    body = raw[start : start + length]
    if _crc(body, durable) != crc:
        return None
    return json.loads(body), start + length, durable


class Journal:
    """The open file. Every method blocks: for the writer thread. Raises `OSError`, `StoreFailed`.

    Without `fsync` it outlives the process only, for which what is written is as durable as what is synced.
    """

    def __init__(self, path: Path, end: int = 0, *, fsync: bool) -> None:
        self._path = path
        self._fsync = fsync
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._file, end)
        self.size = self._durable = end
        self._allocated = end
        self._rewritten = 0
        self.written_bytes = 0

    @property
    def grown(self) -> bool:
        """Whether it is time to `rewrite`."""
        return self.size > max(REWRITE_BYTES, 4 * self._rewritten)

    def append(self, records: Iterable[Record]) -> None:
        """Write behind the last record. What fails leaves the end where it was."""
        raw = b"".join(_framed(_body(record), self._durable) for record in records)
        self._allocate(self.size + len(raw))
        _write(self._file, raw, self.size)
        self.size += len(raw)
        self.written_bytes += len(raw)

    def sync(self) -> None:
        """Make durable what was appended."""
        if self._fsync:
            sync_file(self._file)
        self._durable = self.size

    def rewrite(self, records: Iterable[Record]) -> None:
        """Begin anew with these, which say all that counts; the old file is there until the new one is durable."""
        bodies = [_body(record) for record in records]
        size = sum(_HEADER.size + len(body) for body in bodies)
        raw = b"".join(_framed(body, size) for body in bodies)
        fresh = self._path.with_suffix(".new")
        file = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.posix_fallocate(file, 0, len(raw) + AHEAD_BYTES)
            _write(file, raw, 0)
            if self._fsync:
                sync_file(file)
            fresh.rename(self._path)
        except OSError:
            os.close(file)
            fresh.unlink(missing_ok=True)
            raise
        if self._fsync:
            sync_folder(self._path.parent)
        os.close(self._file)
        self._file = file
        self.size = self._rewritten = len(raw)
        self._allocated = len(raw) + AHEAD_BYTES
        self._durable = len(raw)
        self.written_bytes += len(raw)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _allocate(self, end: int) -> None:
        if end + AHEAD_BYTES // 2 <= self._allocated:
            return
        try:
            os.posix_fallocate(self._file, self._allocated, end + AHEAD_BYTES - self._allocated)
        except OSError:
            if end > self._allocated:
                raise
        else:
            self._allocated = end + AHEAD_BYTES


def _body(record: Record) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode()


def _framed(body: bytes, durable: int) -> bytes:
    return _HEADER.pack(_MAGIC, len(body), _crc(body, durable), durable) + body


def _crc(body: bytes, durable: int) -> int:
    return zlib.crc32(body, zlib.crc32(durable.to_bytes(8, "little")))


def _write(file: int, raw: bytes, at: int) -> None:
    view = memoryview(raw)
    while view:
        done = os.pwrite(file, view, at)
        view, at = view[done:], at + done
