"""One `do_put`: record batches from a Flight thread into a write on the loop, and its last word back.

Not reading is the backpressure: the next record batch is taken from the wire when the write has room for it.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.flight as fl

from penstock.contract.body import Body
from penstock.contract.publishing import PutEnd, PutProgress, PutReply, PutRequest, PutSaid
from penstock.errors import InvalidRequest

LOOK_S = 0.25
"""How late it is noticed that a writer went away while nothing is read from it."""

TELL_S = 0.25
"""Progress is told this often, to those who asked for it."""

Start = Callable[[Coroutine[Any, Any, Any]], "concurrent.futures.Future[Any]"]
"""Starts a coroutine on the loop."""


class Write(Protocol):
    """What a `do_put` writes to."""

    async def add(self, batch: pa.RecordBatch) -> PutProgress:
        """Return when there is room for more. Raises `PenstockError`."""

    async def finish(self) -> PutReply:
        """Return when every row is confirmed. Raises `PenstockError`."""

    def cancel(self) -> None:
        """Nobody waits for the outcome any more."""


class Outlet(Protocol):
    """Where writes begin."""

    async def open(self, request: PutRequest, schema: pa.Schema) -> Write:
        """Raises `PenstockError`."""


class WriterGone(Exception):
    """The caller cancelled, or its connection broke."""


class Put:
    """One call. `start` crosses into the loop."""

    def __init__(self, context: fl.ServerCallContext, start: Start) -> None:
        self._context = context
        self._start = start
        self._told_at = float("-inf")
        self._write: Write | None = None
        self._over = False

    def run(
        self,
        outlet: Outlet,
        request: PutRequest,
        reader: fl.MetadataRecordBatchReader,
        writer: fl.FlightMetadataWriter,
    ) -> None:
        """All of it. Raises `PenstockError`, `WriterGone`."""
        rows = 0
        try:
            write: Write = self._on_loop(self._open(outlet, request, reader.schema))
            for part in _parts(reader):
                if part.data is not None and part.data.num_rows:
                    rows += part.data.num_rows
                    progress = self._on_loop(write.add(part.data))
                    if request.progress:
                        self._tell(writer, progress)
                if part.app_metadata is not None:
                    _check_end(part.app_metadata, rows)
                    _say(writer, PutSaid(done=self._on_loop(write.finish())))
                    return
            raise InvalidRequest(
                'do_put: the stream ended without its last record batch, an empty one with the metadata {"rows": N}'
            )
        finally:
            self._start(self._end())

    async def _open(self, outlet: Outlet, request: PutRequest, schema: pa.Schema) -> Write:
        """Keeps the write itself: a writer may go away between its beginning and the moment when this thread has it."""
        self._write = write = await outlet.open(request, schema)
        if self._over:
            write.cancel()
        return write

    async def _end(self) -> None:
        self._over = True
        if self._write is not None:
            self._write.cancel()

    def _tell(self, writer: fl.FlightMetadataWriter, progress: PutProgress) -> None:
        now = time.monotonic()
        if now - self._told_at >= TELL_S:
            self._told_at = now
            _say(writer, PutSaid(progress=progress))

    def _on_loop(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Wait for the loop as long as the writer does: every wait of a write has a bound of its own."""
        future = self._start(coroutine)
        while True:
            done, _ = concurrent.futures.wait([future], LOOK_S)
            if done:  # not by waiting for the result, which may be a `TimeoutError` of its own
                return future.result()
            if self._context.is_cancelled():
                future.cancel()
                raise WriterGone


def _parts(reader: fl.MetadataRecordBatchReader) -> Iterator[fl.FlightStreamChunk]:
    """What comes, until the writer says nothing more. Raises `WriterGone`."""
    while True:
        try:
            part = reader.read_chunk()
        except StopIteration:
            return
        except (fl.FlightError, pa.ArrowException, OSError) as error:
            raise WriterGone(str(error)) from error
        yield part


def _check_end(metadata: pa.Buffer, rows: int) -> None:
    end = PutEnd.from_json(metadata.to_pybytes())
    if end.rows != rows:
        raise InvalidRequest(f"do_put: {rows} rows came, the writer speaks of {end.rows}: write them again")


def _say(writer: fl.FlightMetadataWriter, said: Body) -> None:
    try:
        writer.write(pa.py_buffer(said.to_json()))
    except (fl.FlightError, pa.ArrowException, OSError) as error:
        raise WriterGone(str(error)) from error
