"""What comes in and is committed while the others hold: a publisher and a reader, each a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Self

import grpc
from benchmarks.topic import PER_REQUEST, Publisher
from tests.soak.holder import Holder, Seen

from penstock.errors import NodeUnreachable

AHEAD_BYTES = 256 << 20
"""What may wait in the emulator: published, and not given to the reader yet."""

PIECE_REQUESTS = 8


class Load:
    """Publishes as fast as it is taken until `stop_publishing`, reads and commits until `stop`."""

    def __init__(self, publisher: Publisher, reader: Holder, seen: Seen, *, first: int, data_bytes: int) -> None:
        self.published = first
        self.batches = 0
        self.failures: list[BaseException] = []
        self._first = first
        self._publisher = publisher
        self._reader = reader
        self._seen = seen
        self._held = seen.rows
        self._data_bytes = data_bytes
        self._full = threading.Event()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._guard, args=(run,)) for run in (self._publish, self._read)]

    def __enter__(self) -> Self:
        """Begin."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop both."""
        self._full.set()
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def taken(self) -> int:
        """Rows that the reader has finished with."""
        return self._seen.rows - self._held

    def stop_publishing(self) -> None:
        """`published` is final when this returns."""
        self._full.set()
        self._threads[0].join()

    def _guard(self, run: Callable[[], None]) -> None:
        try:
            run()
        except (NodeUnreachable, grpc.RpcError, RuntimeError, AssertionError) as failure:  # told by whoever waits
            self.failures.append(failure)

    def _publish(self) -> None:
        rows = PIECE_REQUESTS * PER_REQUEST * 1024 // max(self._data_bytes, 1024)
        while not self._full.is_set():
            if (self.published - self._first - self.taken) * self._data_bytes > AHEAD_BYTES:
                time.sleep(0.01)
                continue
            self._publisher.numbered(self.published, rows, self._data_bytes)
            self.published += rows

    def _read(self) -> None:
        while not self._stop.is_set():
            try:
                if self._reader.batch or self._reader.seal():
                    self._reader.finish(self._seen)
                    self.batches += 1
                else:
                    self._reader.wait_rows(1.0)
            except NodeUnreachable:  # it is stopped: a call has its deadline, and is repeated
                if self._stop.is_set():
                    raise
