"""The file of decisions: appended to, checksummed, and written anew when it has grown.

`framing` says what its bytes mean. Space is allocated ahead and filled with zeros, so that a decision can still be
written when rows fill the disk (their acknowledgement is what makes room again), and so that a sync need not write the
file's length too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from penstock.storage.folder import sync_file, sync_folder
from penstock.storage.framing import Record, Replay, framed, framed_anew, replayed
from penstock.storage.ports import StoreFailed

AHEAD_BYTES = 1 << 20
"""Allocated beyond the end. The commits and acks of some thousand batches take that much; a seal of one batch takes
about 50 bytes for each of its chunks."""

REWRITE_BYTES = 8 << 20
"""Beyond this, and four times what it was after the last rewrite, the journal is written anew: replaying 8 MiB takes
about 0.1 s."""


def replay(path: Path, boot: str | None = None) -> Replay:
    """Read a journal's file. Raises as `replayed` does."""
    return replayed(path.read_bytes() if path.exists() else b"", str(path), boot)


class Journal:
    """The open file; satisfies `ports.DecisionFile`. Every method blocks: for the writer thread.

    Without `fsync` it outlives the process only, for which what is written is as durable as what is synced. Raises
    `OSError`, `StoreFailed`.
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
        """Write behind the last record. What fails leaves the end where it was.

        Not into a file that somebody has removed: a restart would know nothing of what was promised.
        """
        if not os.fstat(self._file).st_nlink:
            raise StoreFailed(f"{self._path} was removed while it was in use")
        raw = framed(records, self._durable)
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
        raw = framed_anew(records)
        fresh = self._path.with_suffix(".new")
        file = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.posix_fallocate(file, 0, len(raw) + AHEAD_BYTES)
            _write(file, raw, 0)
            # Without `fsync` too: its first record says so, and must not be lost with the rest. It is seldom done.
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


def _write(file: int, raw: bytes, at: int) -> None:
    view = memoryview(raw)
    while view:
        done = os.pwrite(file, view, at)
        view, at = view[done:], at + done
