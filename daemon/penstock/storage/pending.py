"""What is to be written, in which jobs, and who waits for it: all that the store decides. No file, no thread."""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from penstock.errors import DiskFull
from penstock.reservoir.decisions import BatchSealed, ConsumerHeard, Decision, Piece
from penstock.reservoir.kept import Copy, Kept, Place
from penstock.storage.state import State
from penstock.telemetry import events

JOB_BYTES = 8 << 20
"""About this much is written before decisions are looked at again: some 10 ms in memory, 50 ms on a fast disk. What is
written besides waits no longer for a decision."""


@dataclass
class Append:
    """A chunk on its way. `copy`: the rows as they are in the file, once they are."""

    subscription: str
    rows: Copy
    kept: Kept
    written: Callable[[Copy], None]
    copy: Copy | None = None


@dataclass
class Entry:
    """A decision on its way; `number` counts them. `refused`: whom to tell if its rows could not be stored."""

    decision: Decision
    refused: Callable[[], None] | None
    number: int


class Freed(NamedTuple):
    """A chunk that nobody refers to any more; `after`: the number of the last decision that came before."""

    file: int
    after: int


@dataclass
class Job:
    """What is written next; what could not be written stays. `through`: the number of its last decision."""

    appends: list[Append]
    entries: list[Entry]
    freed: list[Freed]
    through: int
    sync: bool
    rewrite: list[Decision] | None
    failure: OSError | None = None
    done: list[Append] = field(default_factory=list)

    @property
    def lacks_rows(self) -> bool:
        """Whether a decision is about rows that are not stored."""
        return any(_lacks_rows(entry.decision) for entry in self.entries)


@dataclass(eq=False)
class Call:
    """Somebody who waits: `told` hears None when what was recorded is durable, or why it is not; once."""

    told: Callable[[DiskFull | None], None]
    over: bool = False

    def tell(self, outcome: DiskFull | None) -> None:
        """The first outcome counts."""
        if not self.over:
            self.over = True
            self.told(outcome)


class Pending:
    """Jobs are taken one at a time, written by whoever writes, and settled. `state`: all decisions, written or not.

    `path` names the disk and `free` says how full it is, for people.
    """

    def __init__(self, state: State, *, path: str, free: Callable[[], str]) -> None:
        self.state = state
        self.problem: str | None = None
        self._path = path
        self._free = free
        self._appends: list[Append] = []
        self._entries: list[Entry] = []
        self._freed: deque[Freed] = deque()
        self._recorded = 0
        self._awaited = 0
        self._durable = 0
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._calls: dict[Call, None] = {}
        self._stuck = False

    @property
    def durable(self) -> bool:
        """Whether all that somebody may wait for is."""
        return self._durable >= self._awaited

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be written."""
        return not self._appends and not self._entries

    # --- what comes in ------------------------------------------------------------------------------------------

    def append(self, subscription: str, rows: Copy, kept: Kept, written: Callable[[Copy], None]) -> None:
        """See `BatchStore`."""
        self._appends.append(Append(subscription, rows, kept, written))

    def record(self, decision: Decision, *, lazily: bool = False, refused: Callable[[], None] | None = None) -> None:
        """See `BatchStore`."""
        self.state.apply(decision)
        self._recorded += 1
        self._entries.append(Entry(decision, refused, self._recorded))
        if not lazily:
            self._awaited = self._recorded

    def after(self, act: Callable[[], None]) -> None:
        """See `BatchStore`."""
        if self.durable and not self._waiting:
            act()
        else:
            self._waiting.append((self._awaited, act))

    def call(self, told: Callable[[DiskFull | None], None]) -> Call:
        """Wait for all that was recorded so far; at once where it is durable, or cannot be."""
        call = Call(told)
        if self.durable:
            call.tell(None)
        elif self.problem is not None and self._stuck:
            call.tell(DiskFull(self.problem))
        else:
            self._calls[call] = None
            self.after(lambda: self._end(call, None))
        return call

    def forget(self, call: Call) -> None:
        """Nobody waits there any more."""
        call.over = True
        self._calls.pop(call, None)

    def watch(self, kept: Kept, place: Place) -> None:
        """Free a place when nobody refers to it any more, whichever thread drops it."""
        weakref.finalize(kept, self._dropped, place.segment).atexit = False

    def _dropped(self, file: int) -> None:
        self._freed.append(Freed(file, self._recorded))

    # --- jobs ---------------------------------------------------------------------------------------------------

    def take(self, *, grown: bool) -> Job:
        """The next job: some rows, and the decisions up to the first one about rows that come later.

        While rows cannot be written, all decisions: some of them are what makes room. `grown`: the journal is to be
        written anew.
        """
        size = count = 0
        for append in self._appends:
            count += 1
            size += append.rows.rows.nbytes
            if size >= JOB_BYTES:
                break
        appends, self._appends = self._appends[:count], self._appends[count:]
        coming = {id(append.kept) for append in self._appends} if self.problem is None else set()
        ready = sum(1 for _ in itertools.takewhile(lambda entry: not _needs(entry.decision, coming), self._entries))
        entries, self._entries = self._entries[:ready], self._entries[ready:]
        sync = any(not isinstance(entry.decision, ConsumerHeard) for entry in entries)
        # Rows that the whole state needs may not be written yet.
        rewrite = list(self.state.decisions()) if entries and not self._entries and grown else None
        through = entries[-1].number if entries else self._durable
        freed: list[Freed] = []
        while self._freed and self._freed[0].after <= through:
            freed.append(self._freed.popleft())
        return Job(appends, entries, freed, through, sync, rewrite)

    def settle(self, job: Job) -> bool:
        """A job was written, as far as it could be: tell those who wait. Returns whether to go on at once all the same.

        Where not, what failed is tried again after a while.
        """
        for append in job.done:
            assert append.copy is not None
            assert append.kept.place is not None
            self.watch(append.kept, append.kept.place)
            append.written(append.copy)
        self._appends[:0] = job.appends
        self._entries[:0] = job.entries
        self._freed.extendleft(reversed(job.freed))
        if not job.entries:
            self._durable = job.through
        while self._waiting and self._waiting[0][0] <= self._durable:
            self._waiting.popleft()[1]()
        if job.failure is not None:
            return self._suffer(job.failure, undecided=bool(job.entries))
        if self.problem is not None:
            events.DiskRecovered(data_dir=self._path).emit()
            self.problem = None
        return not self.is_empty

    def _suffer(self, failure: OSError, *, undecided: bool) -> bool:
        """A write failed: seals whose rows are not stored are taken back, so that decisions after them can go on."""
        if self.problem is None:
            events.DiskTrouble(data_dir=self._path, error=str(failure), free=self._free()).emit()
        self.problem = (
            f"the daemon cannot write to its data_dir {self._path}: {failure.strerror} ({self._free()}). "
            "Make room there, or name a larger folder; what waits is in Pub/Sub, and it goes on by itself"
        )
        # Rows that went back meanwhile would be held here only, where no budget counts them. Not those of a seal that
        # is not written yet: it would wait for them for ever.
        sealed = {id(piece.kept) for entry in self._entries for piece in _pieces(entry.decision)}
        self._appends = [append for append in self._appends if append.kept.wanted or id(append.kept) in sealed]
        self._stuck = False
        if not undecided:
            return False
        # Who waits is told now, and asks again: some of the decisions are about to be taken back.
        for call in list(self._calls):
            self._end(call, DiskFull(self.problem))
        blocked = [entry for entry in self._entries if _lacks_rows(entry.decision)]
        self._entries = [entry for entry in self._entries if not _lacks_rows(entry.decision)]
        for entry in blocked:
            if entry.refused is not None:
                entry.refused()
        self._stuck = bool(self._entries) and not blocked
        return bool(blocked)

    def _end(self, call: Call, outcome: DiskFull | None) -> None:
        self._calls.pop(call, None)
        call.tell(outcome)


def _pieces(decision: Decision) -> tuple[Piece, ...]:
    return decision.pieces if isinstance(decision, BatchSealed) else ()


def _needs(decision: Decision, kept: set[int]) -> bool:
    return any(id(piece.kept) in kept for piece in _pieces(decision))


def _lacks_rows(decision: Decision) -> bool:
    return any(piece.kept.place is None for piece in _pieces(decision))
