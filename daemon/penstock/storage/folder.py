"""The folder of one daemon: locked, with a name of its own, on memory or on a disk."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path
from typing import Self

from penstock.errors import InvalidOption
from penstock.storage.ports import StoreFailed

_MEMORY_FILESYSTEMS = frozenset({"tmpfs", "ramfs"})


class Folder:
    """`data_dir` with its lock held. Raises `InvalidOption` when it cannot be used, or another process has it."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.segments = self.path / "segments"
        self.journal = self.path / "journal"
        try:
            self.segments.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            probe = self.segments / "probe"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise InvalidOption(
                f"data_dir = {str(path)!r} cannot be written to: {error.strerror} ({error.filename}). Name a folder "
                f"that user {os.getuid()} may write to, or make this one theirs"
            ) from error
        self._take()
        self.is_memory = is_memory(self.path)

    def _take(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._lock)
            raise InvalidOption(
                f"data_dir = {str(self.path)!r} is in use by the process with PID {holder}: stop that daemon, or give "
                "each one a folder of its own"
            ) from error
        with contextlib.suppress(OSError):  # on a full disk, which whoever needs more than this is to tell of
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def __enter__(self) -> Self:
        """Give the lock back with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lock back."""
        self.close()

    def close(self) -> None:
        """Give the lock back. The end of the process does so as well."""
        os.close(self._lock)

    def clear(self) -> None:
        """Remove all that a daemon before this one has left: this is another node from now on."""
        self.journal.unlink(missing_ok=True)
        shutil.rmtree(self.segments)
        self.segments.mkdir()

    def free(self) -> str:
        """Free and all bytes of its file system, for people."""
        return free_of(self.path)


def is_memory(path: Path) -> bool:
    """Whether files in a folder are memory of this machine."""
    return _filesystem(path) in _MEMORY_FILESYSTEMS


def free_of(path: Path) -> str:
    """Free and all bytes of a folder's file system, for people."""
    try:
        found = os.statvfs(path)
    except OSError as error:
        return f"its free space cannot be told: {error.strerror}"
    free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    return f"{free >> 20:,} of {size >> 20:,} MiB free"


def boot_id() -> str:
    """Names this boot of the machine; "" where the system does not tell."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text(encoding="ascii").strip() if path.exists() else ""


def sync_file(file: int) -> None:
    """Make an open file's contents durable. Raises `StoreFailed`.

    After a failed sync the system may forget what it could not write, and call the next sync a success
    (https://wiki.postgresql.org/wiki/Fsync_Errors).
    """
    try:
        os.fdatasync(file)
    except OSError as error:
        raise StoreFailed(f"a sync failed: {error}") from error


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable. Raises `StoreFailed`, also where the folder cannot be opened.

    A name that was changed, and may be either one after a power cut, is not to be worked on with.
    """
    try:
        folder = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StoreFailed(f"a sync of {path} failed: {error}") from error


def _filesystem(path: Path) -> str:
    """The type of the file system that a folder is on; "" where the system does not tell."""
    mounts = Path("/proc/self/mountinfo")
    if not mounts.exists():
        return ""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    found = ""
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == number:
            found = after.split()[0]
    return found
