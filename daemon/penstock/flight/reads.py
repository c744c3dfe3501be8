"""Running `do_get`s: what they still hold, and the end of those whose reader stands still."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Generator, Sequence

import pyarrow as pa

from penstock.clock import Clock
from penstock.contract import project
from penstock.errors import ReadIdle
from penstock.reservoir import Part, Snapshot

SMALL_BYTES = 256 << 10
"""Parts below this are joined: a reader pays for every record batch. Done here, on the reader's thread, and not when a
batch is sealed, where everybody would wait for the copy."""

LARGE_BYTES = 1 << 20
"""Joined record batches stay below this, the size of a chunk that was decoded under load."""


class Read:
    """One `do_get`. C++ asks for the next record batch whenever the reader's window has room."""

    def __init__(self, snapshot: Snapshot, columns: Sequence[str] | None, clock: Clock) -> None:
        self.schema = project(columns)
        self.progress_at = clock()
        self.rows = snapshot.rows
        self.done = False
        self._cancelled = False
        self._lock = threading.Lock()  # the loop cancels while a Flight thread takes
        self._parts = deque(snapshot.parts)
        self._columns = None if columns is None else list(columns)
        self._clock = clock

    def stream(self) -> Generator[pa.RecordBatch | tuple[pa.RecordBatch, pa.Buffer], None, None]:
        """The rows, then an empty batch whose metadata tells how many there were, so that a cut stream shows.

        Raises `ReadIdle` once `cancel` was called.
        """
        try:
            while parts := self._take():
                batches = [part.record_batch() for part in parts]
                batch = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
                yield batch if self._columns is None else batch.select(self._columns)
                self.progress_at = self._clock()
            if self._cancelled:
                raise ReadIdle(
                    "this read asked for nothing for longer than the daemon's reservoir.read_idle_s, so its rows were "
                    "let go: raise that setting if tasks are this slow, and read again"
                )
            yield (
                pa.RecordBatch.from_pylist([], schema=self.schema),
                pa.py_buffer(json.dumps({"rows": self.rows}).encode()),
            )
        finally:
            self.done = True

    def _take(self) -> list[Part]:
        """The parts of the next record batch: a large one, or as many small ones as make one."""
        taken: list[Part] = []
        size = 0
        with self._lock:
            while self._parts and size < SMALL_BYTES:
                size += self._parts[0].size_bytes
                if taken and size > LARGE_BYTES:
                    break
                taken.append(self._parts.popleft())
        return taken

    def cancel(self) -> None:
        """Let go of the rows. What is on the wire stays with gRPC; when the reader asks for more it gets an error."""
        with self._lock:
            self._cancelled = True
            self._parts.clear()


class Reads:
    """All running `do_get`s of the server. Thread-safe."""

    def __init__(self, clock: Clock, idle_s: float) -> None:
        self._clock = clock
        self._idle_s = idle_s
        self._running: set[Read] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Reads that hold rows."""
        return len(self._running)

    def start(self, snapshot: Snapshot, columns: Sequence[str] | None) -> Read:
        """Count a new read."""
        read = Read(snapshot, columns, self._clock)
        with self._lock:
            self._running.add(read)
        return read

    def sweep(self) -> int:
        """Forget finished reads and cancel idle ones; returns how many were cancelled."""
        now = self._clock()
        with self._lock:
            self._running = {read for read in self._running if not read.done}
            idle = [read for read in self._running if now - read.progress_at >= self._idle_s]
            self._running.difference_update(idle)
        for read in idle:
            read.cancel()
        return len(idle)
