"""All of the storage room behind one writer thread: what is appended and recorded is written in its order."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from penstock.errors import DiskFull
from penstock.reservoir.decisions import BatchSealed, ConsumerHeard, Decision
from penstock.reservoir.kept import Copy, Kept, Place
from penstock.storage.folder import Folder
from penstock.storage.journal import Journal, Record
from penstock.storage.records import encode
from penstock.storage.segments import Segments
from penstock.storage.state import State
from penstock.telemetry import events

RETRY_S = 2.0
"""A disk that is full is tried again after this."""

JOB_BYTES = 8 << 20
"""About this much is written before decisions are looked at again: some 10 ms in memory, 50 ms on a fast disk. What is
written besides waits no longer for a decision."""

IDLE_S = 1.0
"""Without work, files that nothing refers to are looked for this often."""


@dataclass
class _Append:
    subscription: str
    rows: Copy
    kept: Kept
    written: Callable[[Copy], None]
    copy: Copy | None = None


@dataclass
class _Entry:
    decision: Decision
    refused: Callable[[], None] | None
    number: int


@dataclass
class _Job:
    """What the writer thread does next; what it could not do stays. `through`: the number of its last decision."""

    appends: list[_Append]
    entries: list[_Entry]
    freed: list[int]
    through: int
    sync: bool
    rewrite: list[Decision] | None
    failure: OSError | None = None
    done: list[_Append] = field(default_factory=list)


class Store:
    """Satisfies `reservoir.ports.BatchStore`. All but `_write` and what it calls is for the loop.

    `state` is what all decisions add up to, written or not.
    """

    def __init__(self, folder: Folder, identity: Record, journal: Journal, segments: Segments, state: State) -> None:
        self.state = state
        self.is_memory = folder.is_memory
        self.problem: str | None = None
        self._folder = folder
        self._identity = identity
        self._journal = journal
        self._segments = segments
        self._thread = ThreadPoolExecutor(1, "storage")
        self._appends: list[_Append] = []
        self._entries: list[_Entry] = []
        self._freed: deque[int] = deque()
        self._recorded = 0
        self._awaited = 0
        self._durable = 0
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._calls: set[asyncio.Future[None]] = set()
        self._stuck = False
        self._work = asyncio.Event()

    def __repr__(self) -> str:
        """Such as `<Store /data: 3 segments, journal of 1200 bytes>`."""
        return f"<Store {self._folder.path}: {len(self._segments)} segments, journal of {self._journal.size} bytes>"

    # --- reservoir.ports.BatchStore -----------------------------------------------------------------------------

    def append(self, subscription: str, rows: Copy, kept: Kept, written: Callable[[Copy], None]) -> None:
        """See `BatchStore`."""
        self._appends.append(_Append(subscription, rows, kept, written))
        self._work.set()

    def record(self, decision: Decision, *, lazily: bool = False, refused: Callable[[], None] | None = None) -> None:
        """See `BatchStore`."""
        self.state.apply(decision)
        self._recorded += 1
        self._entries.append(_Entry(decision, refused, self._recorded))
        if not lazily:
            self._awaited = self._recorded
        self._work.set()

    def after(self, act: Callable[[], None]) -> None:
        """See `BatchStore`."""
        if self._durable >= self._awaited and not self._waiting:
            act()
        else:
            self._waiting.append((self._awaited, act))

    async def durable(self) -> None:
        """See `BatchStore`."""
        if self._durable >= self._awaited:
            return
        if self.problem is not None and self._stuck:
            raise DiskFull(self.problem)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._calls.add(done)
        self.after(lambda: None if done.done() else done.set_result(None))
        try:
            await done
        finally:
            self._calls.discard(done)

    def statistics(self) -> dict[str, object]:
        """For `status` and `/metrics`."""
        return {
            "path": str(self._folder.path),
            "is_memory": self.is_memory,
            "segments": len(self._segments),
            "segment_bytes_written": self._segments.written_bytes,
            "journal_bytes": self._journal.size,
            "journal_bytes_written": self._journal.written_bytes,
            "problem": self.problem,
        }

    # --- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write until cancelled. Raises `StoreFailed`. Cancellation leaves what is not written: `flush` comes first."""
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_S):
                    await self._work.wait()
            job = self._take()
            await loop.run_in_executor(self._thread, self._write, job)
            self._settle(job)

    async def flush(self, timeout_s: float) -> bool:
        """Wait until all that was recorded is durable, or the time is up; whether it is."""
        with contextlib.suppress(TimeoutError, DiskFull):
            async with asyncio.timeout(timeout_s):
                await self.durable()
        return self._durable >= self._awaited

    def close(self) -> None:
        """End the thread and give the folder back. After `run` has ended."""
        self._thread.shutdown()
        self._journal.close()
        self._segments.close()
        self._folder.close()

    def watch(self, kept: Kept, place: Place) -> None:
        """Free a place when nobody refers to it any more, whichever thread drops it."""
        weakref.finalize(kept, self._freed.append, place.segment).atexit = False

    # --- on the loop --------------------------------------------------------------------------------------------

    def _take(self) -> _Job:
        """The next job: some rows, and the decisions up to the first one about rows that come later.

        While rows cannot be written, all decisions: some of them are what makes room.
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
        if not self._appends and not self._entries:
            self._work.clear()
        freed = [self._freed.popleft() for _ in range(len(self._freed))]
        sync = any(not isinstance(entry.decision, ConsumerHeard) for entry in entries)
        # Rows that the whole state needs may not be written yet.
        rewrite = list(self.state.decisions()) if entries and not self._entries and self._journal.grown else None
        through = entries[-1].number if entries else self._durable
        return _Job(appends, entries, freed, through, sync, rewrite)

    def _settle(self, job: _Job) -> None:
        for append in job.done:
            assert append.copy is not None
            assert append.kept.place is not None
            self.watch(append.kept, append.kept.place)
            append.written(append.copy)
        self._appends[:0] = job.appends
        self._entries[:0] = job.entries
        if not job.entries:
            self._durable = job.through
        while self._waiting and self._waiting[0][0] <= self._durable:
            self._waiting.popleft()[1]()
        if job.failure is not None:
            self._suffer(job.failure, undecided=bool(job.entries))
        elif self.problem is not None:
            events.DiskRecovered(data_dir=str(self._folder.path)).emit()
            self.problem = None

    def _suffer(self, failure: OSError, *, undecided: bool) -> None:
        """A write failed: seals whose rows are not stored are taken back, so that decisions after them can go on."""
        if self.problem is None:
            events.DiskTrouble(data_dir=str(self._folder.path), error=str(failure), free=self._folder.free()).emit()
        self.problem = (
            f"the daemon cannot write to its data_dir {self._folder.path}: {failure.strerror} ({self._folder.free()}). "
            "Make room there, or name a larger folder; what waits is in Pub/Sub, and it goes on by itself"
        )
        # Rows that went back meanwhile would be held here only, where no budget counts them.
        self._appends = [append for append in self._appends if append.kept.wanted]
        self._stuck = False
        if not undecided:
            return
        # Who waits is told now, and asks again: some of the decisions are about to be taken back.
        for call in [call for call in self._calls if not call.done()]:
            call.set_exception(DiskFull(self.problem))
        blocked = [entry for entry in self._entries if _lacks_rows(entry.decision)]
        self._entries = [entry for entry in self._entries if not _lacks_rows(entry.decision)]
        for entry in blocked:
            if entry.refused is not None:
                entry.refused()
            self._work.set()
        self._stuck = bool(self._entries) and not blocked

    # --- on the writer thread -----------------------------------------------------------------------------------

    def _write(self, job: _Job) -> None:
        """As much of a job as can be written. Done twice, it writes what is left."""
        job.failure = None
        try:
            self._write_rows(job)
        except OSError as error:
            job.failure = error
        if not any(_lacks_rows(entry.decision) for entry in job.entries):
            try:
                self._write_decisions(job)
            except OSError as error:
                job.failure = error
        # Last, so that what ended a batch is on record before its rows are gone; and also where the rest failed, since
        # it makes room.
        for number in job.freed:
            self._segments.free(number)
        job.freed = []

    def _write_rows(self, job: _Job) -> None:
        if not job.appends and not job.entries:
            self._segments.close_unused()
        while job.appends:
            append = job.appends[0]
            append.kept.place, append.copy = self._segments.write(append.subscription, append.rows)
            job.done.append(job.appends.pop(0))

    def _write_decisions(self, job: _Job) -> None:
        if job.sync:
            self._segments.sync()
        if job.rewrite is None or not self._rewritten(job.rewrite):
            self._journal.append([encode(entry.decision) for entry in job.entries])
            if job.sync:
                self._journal.sync()
        job.entries = []

    def _rewritten(self, decisions: list[Decision]) -> bool:
        """Whether there was room for a new journal beside the old one."""
        self._segments.sync()
        try:
            self._journal.rewrite([self._identity, *map(encode, decisions)])
        except OSError:
            return False
        return True


def _needs(decision: Decision, kept: set[int]) -> bool:
    return isinstance(decision, BatchSealed) and any(id(piece.kept) in kept for piece in decision.pieces)


def _lacks_rows(decision: Decision) -> bool:
    return isinstance(decision, BatchSealed) and any(piece.kept.place is None for piece in decision.pieces)
