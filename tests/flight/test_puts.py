"""A `do_put` whose writer goes away, or whose write ends oddly, leaves nothing behind and does not hang."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from penstock.contract import PROTOCOL_VERSION
from penstock.contract.publishing import PutProgress, PutReply, PutRequest
from penstock.flight import puts
from penstock.flight.puts import Put, WriterGone

REQUEST = PutRequest(v=PROTOCOL_VERSION, topic="projects/p/topics/t")
WAIT_S = 10.0


class OddWrite:
    """Its `add` ends with a `TimeoutError`; whether it was cancelled shows."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    async def add(self, batch: pa.RecordBatch) -> PutProgress:
        raise TimeoutError(f"of the write's own, with {len(batch)} rows")

    async def finish(self) -> PutReply:
        raise NotImplementedError

    def cancel(self) -> None:
        self.cancelled.set()


class SlowOutlet:
    """Its writes begin when the test says so, whoever has gone away meanwhile."""

    def __init__(self, *, slow: bool) -> None:
        self.write = OddWrite()
        self.opening = threading.Event()
        self.go_on = asyncio.Event()
        self._slow = slow

    async def open(self, request: PutRequest, schema: pa.Schema) -> OddWrite:
        self.opening.set()
        if self._slow:
            task = asyncio.ensure_future(self.go_on.wait())
            while not task.done():
                try:
                    await asyncio.shield(task)
                except asyncio.CancelledError:  # too late: the write is there
                    continue
        return self.write


class Reader:
    """One record batch of one row."""

    schema = pa.schema([("data", pa.binary())])

    def read_chunk(self) -> Any:
        rows = pa.RecordBatch.from_pydict({"data": [b"x"]}, schema=self.schema)
        return SimpleNamespace(data=rows, app_metadata=None)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(WAIT_S)
    loop.close()


def put(loop: asyncio.AbstractEventLoop, outlet: SlowOutlet, *, gone: threading.Event) -> None:
    context = cast("Any", SimpleNamespace(is_cancelled=gone.is_set))
    run = Put(context, lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop))
    run.run(outlet, REQUEST, cast("Any", Reader()), cast("Any", None))


def test_a_timeout_inside_a_write_is_an_error_and_no_endless_wait(loop: asyncio.AbstractEventLoop) -> None:
    outlet = SlowOutlet(slow=False)
    with pytest.raises(TimeoutError, match="of the write's own, with 1 rows"):
        put(loop, outlet, gone=threading.Event())
    assert outlet.write.cancelled.wait(WAIT_S)


def test_a_writer_that_goes_away_while_its_write_begins_leaves_no_write(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(puts, "LOOK_S", 0.01)
    outlet, gone = SlowOutlet(slow=True), threading.Event()
    outcome: list[BaseException] = []

    def run() -> None:
        try:
            put(loop, outlet, gone=gone)
        except WriterGone as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert outlet.opening.wait(WAIT_S)
    gone.set()
    thread.join(WAIT_S)
    assert len(outcome) == 1
    loop.call_soon_threadsafe(outlet.go_on.set)
    assert outlet.write.cancelled.wait(WAIT_S)
