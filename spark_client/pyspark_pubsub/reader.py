"""Spark's calls, translated: on the driver into those of a `Session`, on executors into reads of slices."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from pyspark.sql.datasource import DataSourceStreamReader, InputPartition
from pyspark.sql.streaming.datasource import (
    ReadAllAvailable,
    ReadLimit,
    ReadMaxBytes,
    ReadMaxRows,
    ReadMinRows,
    SupportsTriggerAvailableNow,
)

from penstock.client import (
    Driver,
    Limits,
    Listed,
    NodeClient,
    Offset,
    PlanHost,
    ReaderSettings,
    Session,
    SideBySide,
    claim,
    own_node,
    read_patiently,
)
from penstock.contract import new_id
from penstock.contract.actions import CommitRequest, PlacedSlice
from penstock.errors import InvalidOption, InvalidRequest, PenstockError
from pyspark_pubsub.clients import beside, client, is_first
from pyspark_pubsub.options import Options

_LOG = logging.getLogger("penstock.spark")

NO_LIMIT = 1 << 62
"""`getDefaultReadLimit` says this and never `ReadAllAvailable`, which is how Trigger.Once is told apart."""


@dataclass(frozen=True)
class Carried:
    """Commits that the driver could not deliver: the nodes they are for, and what to tell them, as JSON."""

    nodes: tuple[str, ...]
    request: bytes


class Slice(InputPartition):
    """What one task reads, and commits to deliver on the way. JSON inside: any release reads it."""

    def __init__(self, placed: bytes, carried: Carried | None) -> None:
        super().__init__(None)
        self.placed = placed
        self.carried = carried

    def __repr__(self) -> str:
        """Where and which."""
        return f"Slice({self.placed.decode()})"


class Claim(InputPartition):
    """One of a plan's partitions: its task asks the plan's host which slice it reads."""

    def __init__(self, host: PlanHost, number: int, carried: Carried | None) -> None:
        super().__init__(None)
        self.host = host
        self.number = number
        self.carried = carried

    def __repr__(self) -> str:
        """Which of which."""
        return f"Claim({self.number} of plan {self.host.plan} at {self.host.endpoint})"


class PubSubStreamReader(DataSourceStreamReader, SupportsTriggerAvailableNow):
    """One query's reader on the driver; a copy without a session on each executor, so `__init__` only keeps options."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._initial: dict[str, Any] | None = None
        self._session: Session | None = None
        self._available_now = False

    # --- on the driver ------------------------------------------------------------------------------------------

    def initialOffset(self) -> dict[str, Any]:  # noqa: N802
        """Where a new consumer begins: one for each process, though Spark asks twice."""
        if self._initial is None:
            self._initial = Offset.initial(new_id(), self._options.subscription).to_plain()
        return self._initial

    def getDefaultReadLimit(self) -> ReadLimit:  # noqa: N802
        """One of the limits set, for Spark to show; `latestOffset` honours all of them."""
        if self._options.max_rows is not None:
            return ReadMaxRows(self._options.max_rows)
        return ReadMaxBytes(self._options.max_bytes or NO_LIMIT)

    def prepareForTriggerAvailableNow(self) -> None:  # noqa: N802
        """From here on: take what is there, then end."""
        self._available_now = True

    def latestOffset(self, start: dict[str, Any], limit: ReadLimit) -> dict[str, Any]:  # noqa: N802
        """Commit `start`, seal the next epoch; `start` itself when there is nothing."""
        if isinstance(limit, ReadAllAvailable):
            raise InvalidOption(
                "trigger(once=True) is not supported, since it never tells a source that its batch is done: use "
                "trigger(availableNow=True)"
            )
        begin = Offset.from_checkpoint(start, self._options.subscription)
        end = self._opened(begin).latest(begin, self._limits(limit))
        return start if end is None else end.to_plain()

    def partitions(self, start: dict[str, Any], end: dict[str, Any]) -> list[InputPartition]:
        """The slices between two offsets: the same ones however often Spark asks, as long as their batch exists."""
        begin = Offset.from_checkpoint(start, self._options.subscription)
        until = Offset.from_checkpoint(end, self._options.subscription)
        if begin.epoch == until.epoch:
            return []
        # Batch 0 run again after a crash: Spark asks for a new initial offset, the checkpoint knows the consumer.
        session = self._opened(until)
        planned = session.plan(begin, until, self._options.slices)
        host = session.host(until.epoch, planned)
        behind = session.driver.pending_commits()
        carried = None if behind is None else Carried(behind.nodes, behind.request.to_json())
        if host is not None:
            return [Claim(host, number, carried) for number in range(len(planned))]
        return [Slice(part.placed.to_json(), carried) for part in planned]

    def reportLatestOffset(self) -> dict[str, Any] | None:  # noqa: N802
        """Backlog and nodes as last heard; shows as `sources[0].latestOffset` in the query's progress."""
        return None if self._session is None else self._session.report()

    def commit(self, end: dict[str, Any]) -> None:
        """Nothing: Spark says it a batch late, or never. The start of `latestOffset` is the signal."""

    def stop(self) -> None:
        """The query ends: another consumer may take over."""
        if self._session is not None:
            self._session.bye()

    def _opened(self, at: Offset) -> Session:
        if self._session is None:
            options = self._options
            settings = ReaderSettings(
                subscription=options.subscription,
                share=options.share,
                dedupe=options.dedupe,
                create=options.create,
                columns=options.columns,
                node_wait_s=options.node_wait_s,
                commit_ttl=options.commit_ttl,
                exclude_lost=options.exclude_lost,
            )
            driver = Driver(at.consumer, settings, Listed(options.daemons), together=SideBySide())
            self._session = Session(driver)
            if self._available_now:
                self._session.driver.take_what_is_there(options.available_now_idle_s)
            _say_bye_at_the_end(self._session)
        if self._session.driver.consumer != at.consumer:
            raise InvalidRequest(
                f"one query was given offsets of two consumers, {self._session.driver.consumer} and {at.consumer}: "
                "restart it"
            )
        return self._session

    def _limits(self, limit: ReadLimit) -> Limits:
        """The options' limits, or Spark's where they are tighter."""
        options = self._options
        max_rows, max_bytes, min_rows = options.max_rows, options.max_bytes, options.min_rows
        if isinstance(limit, ReadMaxRows):
            max_rows = min(limit.max_rows, max_rows or NO_LIMIT)
        elif isinstance(limit, ReadMaxBytes) and limit.max_bytes < NO_LIMIT:
            max_bytes = min(limit.max_bytes, max_bytes or NO_LIMIT)
        elif isinstance(limit, ReadMinRows):
            min_rows = max(limit.min_rows, min_rows or 1)
        return Limits(max_rows=max_rows, max_bytes=max_bytes, min_rows=min_rows, max_delay_s=options.max_delay_s)

    # --- on executors -------------------------------------------------------------------------------------------

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """The rows of a slice, all of them or an error that fails the task. Waits for a daemon that comes back."""
        assert isinstance(partition, Slice | Claim), "Spark hands back what `partitions` made"
        wait_s = self._options.node_wait_s
        near = own_node() if isinstance(partition, Claim) or partition.carried is not None else None
        if isinstance(partition, Claim):
            host = partition.host
            placed = claim(client(host.endpoint), host.plan, host.incarnation, partition.number, near, wait_s)
        else:
            placed = PlacedSlice.from_json(partition.placed)
        node = client(placed.endpoint)
        if partition.carried is not None:
            _deliver(partition.carried, {placed.node: node} | ({near: beside()} if near is not None else {}))
        return read_patiently(node, placed.ticket, wait_s)


def _deliver(carried: Carried, reachable: Mapping[str, NodeClient]) -> None:
    """Commits that the driver could not deliver, to the nodes at hand that they are for: no harm if this fails, too."""
    request = CommitRequest.from_json(carried.request)
    for name, node in reachable.items():
        if name in carried.nodes and is_first(name, request):
            try:
                node.call("commit", replace(request, node=name))
            except PenstockError as error:
                _LOG.info("commit carried by a task to %s: %s", node.endpoint, error)


def _say_bye_at_the_end(session: Session) -> None:
    """`query.stop()` closes this process's socket and sends SIGTERM; whichever is noticed first ends it.

    The end of the socket is an ordinary exit, which the signal must not cut short while it tells; the default action of
    the signal alone would tell nobody.
    """
    atexit.register(session.bye)
    if threading.current_thread() is not threading.main_thread():
        return

    def ended(number: int, _frame: object) -> None:
        if session.saying_bye:
            return
        signal.signal(number, signal.SIG_DFL)
        try:
            session.bye()
        finally:
            os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, ended)
