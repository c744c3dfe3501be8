"""What the room needs of a disk, as Protocols: files satisfy them, and a simulated disk that crashes as told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from penstock.reservoir.kept import Copy, Place
from penstock.storage.framing import Record, Replay


class RowFiles(Protocol):
    """Where rows are. Raises `OSError`, `StoreFailed`."""

    def write(self, subscription: str, rows: Copy) -> tuple[Place, Copy]:
        """Append a chunk; where it is, and the same rows as they are there."""

    def sync(self) -> None:
        """Make durable what was written."""

    def free(self, number: int) -> None:
        """One chunk of a file is not referred to any more."""

    def close_unused(self) -> None:
        """Remove the files that hold nothing that counts; for when there is no work."""

    def find(self, place: Place) -> Copy:
        """What a process before this one wrote. Raises `Damaged`, and `OSError` where that cannot be told now."""

    def hold(self, number: int) -> None:
        """A chunk that was found is referred to."""

    def remove_others(self) -> None:
        """Remove the files of which nothing is referred to, once all that counts was found."""


class DecisionFile(Protocol):
    """Where decisions are. Raises `OSError`, `StoreFailed`."""

    @property
    def grown(self) -> bool:
        """Whether it is time to `rewrite`."""

    def append(self, records: Iterable[Record]) -> None:
        """Write behind the last record. What fails leaves the end where it was."""

    def sync(self) -> None:
        """Make durable what was appended."""

    def rewrite(self, records: Iterable[Record]) -> None:
        """Begin anew with these; the old file counts until the new one is durable."""


class Disk(Protocol):
    """One folder. `path` is for people; `boot` names this start of the machine."""

    path: str
    boot: str
    fsync: bool
    is_memory: bool

    def free(self) -> str:
        """How full it is, for people."""

    def replay(self) -> Replay:
        """The decisions that are there. Raises `InvalidOption` when they must not be trusted."""

    def clear(self) -> None:
        """Remove all that a daemon before this one has left."""

    def rows(self, last: int) -> RowFiles:
        """The files of rows; numbers up to `last`, and those that are there, are given already."""

    def decisions(self, end: int) -> DecisionFile:
        """The file of decisions, cut off behind byte `end`."""


class Damaged(ValueError):
    """What is at a place is not what was written there."""


class StoreFailed(Exception):
    """The disk may have lost what it took: only a new process, which checks all of it, can tell what is left."""
