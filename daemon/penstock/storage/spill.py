"""Temporary files for sealed batches: the store's segments without its journal, gone with the process.

A batch has files of its own, which go when the last of its chunks does. They have no name, so that a killed daemon
leaves nothing behind. Nothing is synced: what is lost with the machine would have been lost from memory as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from penstock.clock import Clock
from penstock.errors import InvalidOption
from penstock.reservoir.kept import Copy, Kept, Place
from penstock.storage.folder import free_of, is_memory
from penstock.storage.segments import Segments
from penstock.telemetry import events

RETRY_S = 10.0
"""After a batch could not be written the next one is tried this much later: a full disk is nobody's hurry."""

IDLE_S = 0.5
"""Without work, files whose batch has ended are looked for this often."""


@dataclass
class _Job:
    """A batch to write; what became of its chunks, in their order."""

    batch_id: str
    chunks: Sequence[tuple[Copy, Kept]]
    done: Callable[[Sequence[Copy] | None], None]
    written: list[tuple[Place, Copy]] = field(default_factory=list)
    failure: Exception | None = None


class Spill:
    """Satisfies `reservoir.ports.SpillSink`. All but `_write` and `_free` is for the loop."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._segments = Segments(folder, fsync=False, named=False)
        self._thread = ThreadPoolExecutor(1, "spill")
        self._job: _Job | None = None
        self._freed: deque[int] = deque()
        self._work = asyncio.Event()
        self._again_at = float("-inf")
        self._batches = self._failures = 0
        self._problem: str | None = None

    def __repr__(self) -> str:
        """Such as `<Spill /tmp: 3 files>`."""
        return f"<Spill {self._folder}: {len(self._segments)} files>"

    # --- reservoir.ports.SpillSink ------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """See `SpillSink`."""
        return self._job is None and self._clock() >= self._again_at

    def spill(
        self, batch_id: str, chunks: Sequence[tuple[Copy, Kept]], done: Callable[[Sequence[Copy] | None], None]
    ) -> None:
        """See `SpillSink`."""
        assert self._job is None, "one at a time"
        self._job = _Job(batch_id, chunks, done)
        self._work.set()

    def statistics(self) -> dict[str, object]:
        """For `status` and `/metrics`."""
        return {
            "path": str(self._folder),
            "files": len(self._segments),
            "batches": self._batches,
            "bytes_written": self._segments.written_bytes,
            "failures": self._failures,
            "problem": self._problem,
        }

    # --- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write and free until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_S):
                    await self._work.wait()
            self._work.clear()
            freed = [self._freed.popleft() for _ in range(len(self._freed))]
            if freed:
                await loop.run_in_executor(self._thread, self._free, freed)
            if self._job is not None:
                await loop.run_in_executor(self._thread, self._write, self._job)
                self._settle()

    def close(self) -> None:
        """End the thread and let the files go. After `run` has ended."""
        self._thread.shutdown()
        self._segments.close()

    def _settle(self) -> None:
        job, self._job = self._job, None
        assert job is not None
        if job.failure is not None:
            self._again_at = self._clock() + RETRY_S
            self._failures += 1
            free = free_of(self._folder)
            events.SpillFailed(spill_dir=str(self._folder), error=str(job.failure), free=free).emit()
            self._problem = (
                f"sealed batches stay in memory, since spill_dir {self._folder} cannot be written to: {job.failure} "
                f"({free}). Make room there, or name a larger folder"
            )
            job.done(None)
            return
        self._problem = None
        self._batches += 1
        for (place, _), (_, kept) in zip(job.written, job.chunks, strict=True):
            weakref.finalize(kept, self._freed.append, place.segment).atexit = False
        job.done([copy for _, copy in job.written])

    # --- on the writer thread -----------------------------------------------------------------------------------

    def _write(self, job: _Job) -> None:
        """All of a batch, or nothing."""
        try:
            for rows, _ in job.chunks:
                job.written.append(self._segments.write(job.batch_id, rows))
        except (OSError, pa.ArrowException) as error:
            job.failure = error.with_traceback(None)  # whose frames have the job, and so the rows: a cycle
        self._segments.finish(job.batch_id)
        if job.failure is not None:
            numbers = [place.segment for place, _ in job.written]
            job.written.clear()
            self._free(numbers)

    def _free(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._segments.free(number)


def open_spill(path: str | None, clock: Clock) -> Spill | None:
    """Files in `path`; by default in the system's temporary folder, unless that is memory or cannot be written to.

    Raises `InvalidOption` for a folder that was named and is of no use.
    """
    folder = Path(path or tempfile.gettempdir()).absolute()
    reason = _unusable(folder)
    if reason is None:
        return Spill(folder, clock)
    if path is not None:
        raise InvalidOption(
            f"spill_dir = {path!r} {reason}. Name a folder on a disk, or set reservoir.spill_above = 1 to keep batches "
            "in memory"
        )
    events.SpillOff(spill_dir=str(folder), reason=reason).emit()
    return None


def _unusable(folder: Path) -> str | None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return f"cannot be written to: {error.strerror}"
    return "is on tmpfs, which is memory: nothing would be gained" if is_memory(folder) else None
