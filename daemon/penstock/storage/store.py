"""All of the storage room behind one writer thread: what is appended and recorded is written in its order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from penstock.errors import DiskFull
from penstock.reservoir.decisions import Decision
from penstock.reservoir.kept import Copy, Kept
from penstock.storage.folder import Folder
from penstock.storage.journal import Journal
from penstock.storage.pending import Pending
from penstock.storage.segments import Segments
from penstock.storage.writing import Writing

IDLE_S = 1.0
"""Without work, files that nothing refers to are looked for this often."""


class Store:
    """Satisfies `reservoir.ports.BatchStore`: lets `Pending` decide on the loop, and `Writing` act on its thread."""

    def __init__(
        self, folder: Folder, pending: Pending, writing: Writing, journal: Journal, segments: Segments
    ) -> None:
        self.is_memory = folder.is_memory
        self._folder = folder
        self._pending = pending
        self._writing = writing
        self._journal = journal
        self._segments = segments
        self._thread = ThreadPoolExecutor(1, "storage")
        self._work = asyncio.Event()

    def __repr__(self) -> str:
        """Such as `<Store /data: 3 segments, journal of 1200 bytes>`."""
        return f"<Store {self._folder.path}: {len(self._segments)} segments, journal of {self._journal.size} bytes>"

    # --- reservoir.ports.BatchStore -----------------------------------------------------------------------------

    @property
    def problem(self) -> str | None:
        """See `BatchStore`."""
        return self._pending.problem

    def append(self, subscription: str, rows: Copy, kept: Kept, written: Callable[[Copy], None]) -> None:
        """See `BatchStore`."""
        self._pending.append(subscription, rows, kept, written)
        self._work.set()

    def record(self, decision: Decision, *, lazily: bool = False, refused: Callable[[], None] | None = None) -> None:
        """See `BatchStore`."""
        self._pending.record(decision, lazily=lazily, refused=refused)
        self._work.set()

    def after(self, act: Callable[[], None]) -> None:
        """See `BatchStore`."""
        self._pending.after(act)

    async def durable(self) -> None:
        """See `BatchStore`."""
        if self._pending.durable:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def told(outcome: DiskFull | None) -> None:
            if done.done():
                return
            if outcome is None:
                done.set_result(None)
            else:
                done.set_exception(outcome)

        call = self._pending.call(told)
        try:
            await done
        finally:
            self._pending.forget(call)

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
            job = self._pending.take(grown=self._journal.grown)
            if self._pending.is_empty:
                self._work.clear()
            await loop.run_in_executor(self._thread, self._writing.write, job)
            if self._pending.settle(job):
                self._work.set()
            else:  # also where much is left: what failed would be tried again at once, as fast as the disk says no
                self._work.clear()

    async def flush(self, timeout_s: float) -> bool:
        """Wait until all that was recorded is durable, or the time is up; whether it is."""
        with contextlib.suppress(TimeoutError, DiskFull):
            async with asyncio.timeout(timeout_s):
                await self.durable()
        return self._pending.durable

    def close(self) -> None:
        """End the thread and give the folder back. After `run` has ended."""
        self._thread.shutdown()
        self._journal.close()
        self._segments.close()
        self._folder.close()
