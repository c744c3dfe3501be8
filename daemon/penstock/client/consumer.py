"""Reading a subscription from plain Python, under the same protocol as Spark."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Self

import pyarrow as pa

from penstock.client.calls import ReaderSettings
from penstock.client.driver import Driver, Limits
from penstock.client.listing import Listed
from penstock.client.offset import Offset
from penstock.client.session import Session
from penstock.client.together import SideBySide
from penstock.contract import DEFAULT_ENDPOINT, new_id, project, subscription_path
from penstock.errors import BatchGone, EpochPast, InvalidOption, InvalidRequest

WAIT_S = 1.0
"""How long `Consumer.next` waits at a time; it bounds how late an error of a node shows while idle."""


class Batch:
    """Sealed rows, to be read any number of times until `commit`. Made by `Consumer`."""

    def __init__(self, consumer: Consumer, end: Offset) -> None:
        self.epoch = end.epoch
        self.num_rows = end.rows
        self._consumer = consumer
        self._end = end

    def __repr__(self) -> str:
        """Which, and how many rows."""
        return f"Batch(epoch={self.epoch}, num_rows={self.num_rows})"

    def __len__(self) -> int:
        """Rows."""
        return self.num_rows

    def record_batches(self) -> Iterator[pa.RecordBatch]:
        """The rows as Arrow record batches, as they come from the daemon.

        Raises `BatchGone` if the daemon has the batch no more (its rows come again), `NodeUnreachable`.
        """
        yield from self._consumer.read(self._end)

    def to_table(self) -> pa.Table:
        """All rows in memory."""
        return pa.Table.from_batches(self.record_batches(), schema=self._consumer.schema)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Row by row as Python values, attributes as a dict. For looking and small jobs: slow beside Arrow."""
        for batch in self.record_batches():
            yield from batch.to_pylist(maps_as_pydicts="strict")

    def commit(self) -> None:
        """Processed: the daemon acknowledges the rows. Commit in order: batches before this one go back to Pub/Sub."""
        self._consumer.commit(self._end)


class Consumer:
    """An iterator over a subscription's batches, without end.

    ::

        with penstock.Consumer("projects/p/subscriptions/s") as consumer:
            for batch in consumer:
                process(batch.to_table())
                batch.commit()

    `name` makes the consumer the same one over restarts: what a process before it did not commit comes again at once,
    and the older process, if it still runs, is fenced. `endpoint`: one daemon or several. `max_rows` and `max_bytes`
    bound a batch. Leaving the block (or `close`) gives back what was not committed. Use it from one thread. Raises
    `PenstockError` from every call.
    """

    def __init__(  # noqa: PLR0913 - options, all with defaults
        self,
        subscription: str,
        *,
        project_id: str | None = None,
        endpoint: str | Sequence[str] | None = None,
        name: str | None = None,
        max_rows: int | None = None,
        max_bytes: int | None = None,
        columns: tuple[str, ...] | list[str] | None = None,
        share: bool = False,
        node_wait_s: float = 10.0,
    ) -> None:
        for option, value in (("max_rows", max_rows), ("max_bytes", max_bytes)):
            if value is not None:
                _at_least_1(option, value)
        self.schema = project(columns)
        self.subscription = subscription_path(subscription, project_id)
        self.name = name or new_id()
        settings = ReaderSettings(
            subscription=self.subscription,
            share=share,
            columns=None if columns is None else tuple(columns),
            node_wait_s=node_wait_s,
        )
        self._limits = Limits(max_rows=max_rows, max_bytes=max_bytes)
        endpoint = endpoint or os.environ.get("PENSTOCK_ENDPOINT") or DEFAULT_ENDPOINT
        self._nodes = Listed([endpoint] if isinstance(endpoint, str) else endpoint)
        self._session = Session(Driver(self.name, settings, self._nodes, together=SideBySide()))
        self._at = Offset.initial(self.name, self.subscription)
        self._begun = False
        self._closed = False

    def __enter__(self) -> Self:
        """Close with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def __iter__(self) -> Iterator[Batch]:
        """Batches as they come, until the consumer is closed."""
        while not self._closed:
            batch = self.next(WAIT_S)
            if batch is not None:
                yield batch

    def next(self, timeout_s: float | None = None, *, max_rows: int | None = None) -> Batch | None:
        """The next batch; None when there was no row for `timeout_s` (None: wait for ever).

        `max_rows` stands for this batch in place of the consumer's own.
        """
        limits = self._limits if max_rows is None else replace(self._limits, max_rows=_at_least_1("max_rows", max_rows))
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._closed:
            wait_s = WAIT_S if until is None else max(min(WAIT_S, until - time.monotonic()), 0.0)
            end = self._sealed(limits, wait_s)
            if end is not None:
                self._at, self._begun = end, True
                return Batch(self, end)
            if until is not None and time.monotonic() >= until:
                return None
        return None

    def read(self, end: Offset) -> Iterator[pa.RecordBatch]:
        """For `Batch`: the rows of the epoch that ends there."""
        self._check_open()
        start = Offset.initial(self.name, self.subscription, end.epoch - 1)
        planned = self._session.plan(start, end, 1)
        if sum(part.rows for part in planned) != end.rows:
            raise BatchGone(f"the batch of epoch {end.epoch} is gone (see the log for why): its rows come again")
        for part in planned:
            yield from self._nodes.client(part.endpoint).read(part.ticket)

    def commit(self, finished: Offset) -> None:
        """For `Batch`: the epoch that ends there was processed."""
        self._check_open()
        self._session.commit(finished)

    def report(self) -> dict[str, Any]:
        """Backlog and node figures, without a call."""
        return self._session.report()

    def close(self) -> None:
        """End the consumer: what was not committed goes back to Pub/Sub. A named one may be continued later."""
        if self._closed:
            return
        self._closed = True
        self._session.close()
        self._nodes.close()

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidRequest("the consumer is closed, and its rows were given back: read and commit before that")

    def _sealed(self, limits: Limits, wait_s: float) -> Offset | None:
        while True:
            try:
                return self._session.seal(self._at, limits, wait_s)
            except EpochPast as error:
                # A named consumer goes on where the process before it stopped; each node says how far it has heard.
                through = error.details.get("committed_through")
                if self._begun or not isinstance(through, int) or through <= self._at.epoch:
                    raise
                self._at = Offset.initial(self.name, self.subscription, through)


def _at_least_1(option: str, value: int) -> int:
    if value < 1:
        raise InvalidOption(f"{option}={value}: at least 1, or None for no limit")
    return value
