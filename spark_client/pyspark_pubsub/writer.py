"""Spark's calls of a sink, translated: each task is one write, which is over when Pub/Sub has confirmed every row."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql.datasource import DataSourceArrowWriter, DataSourceStreamArrowWriter, WriterCommitMessage
from pyspark.sql.pandas.types import to_arrow_type
from pyspark.sql.types import StructType

from penstock.client import NodeClient, write
from penstock.client.columns import BESIDE, check_columns
from penstock.client.json_text import encodable
from penstock.contract import DEFAULT_ENDPOINT, MAX_PUTS, PROTOCOL_VERSION, new_id
from penstock.contract.actions import StatusReply, StatusRequest
from penstock.contract.publishing import PutReply, Trace
from penstock.errors import Draining, InvalidOption, InvalidRequest, NodeUnreachable, ServiceUnavailable
from pyspark_pubsub.clients import client
from pyspark_pubsub.sink_options import SinkOptions

_LOG = logging.getLogger("penstock.spark")

_COLLATION = re.compile(r" collate \w+")

RETRY_FIRST_S, RETRY_LAST_S = 0.05, 1.0
"""Waits for a daemon that does not answer double from the first to the last."""


@dataclass
class Written(WriterCommitMessage):
    """What one task published."""

    messages: int
    bytes: int
    skipped: int
    dead_lettered: int


@dataclass(frozen=True)
class Plan:
    """What every task of a write needs. `job`: names the write, for the tracing attributes of a batch query."""

    options: SinkOptions
    job: str


def plan_write(options: Mapping[str, str], schema: StructType, *, overwrite: bool, streaming: bool) -> Plan:
    """On the driver, before any task: check options, columns and save mode. Raises `InvalidOption`."""
    parsed = SinkOptions.parse(options)
    if overwrite:
        how = '.outputMode("complete") writes all rows anew' if streaming else '.mode("overwrite") replaces rows'
        fix = 'use .outputMode("append") or "update"' if streaming else 'use .mode("append")'
        raise InvalidOption(f"{how}, and messages that were published cannot be taken back: {fix}")
    settings = parsed.settings
    # How text is compared matters to nobody who reads it.
    kinds = {field.name: _COLLATION.sub("", field.dataType.simpleString()) for field in schema}
    if len(kinds) != len(schema):
        raise InvalidOption(f"columns {', '.join(schema.names)}: each name at most once")
    try:
        check_columns(kinds, as_json=settings.as_json)
        if settings.as_json:
            _check_payload(schema)
    except InvalidRequest as error:
        raise InvalidOption(error.message, **error.details) from error
    if settings.topic is None and "topic" not in kinds:
        raise InvalidOption(
            "option topicId is missing: an ID (with projectId), or projects/PROJECT/topics/ID; or write a column "
            "`topic`"
        )
    return Plan(parsed, new_id())


def _check_payload(schema: StructType) -> None:
    """Raises `InvalidRequest` for a column that JSON has no form for, `PySparkTypeError` where Arrow has none."""
    for field in schema:
        if field.name not in BESIDE:
            encodable(to_arrow_type(field.dataType, timezone="UTC"), field.name)


class PubSubWriter(DataSourceArrowWriter):
    """`df.write.format("pubsub").mode("append").save()`. Pickled to each task."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def write(self, iterator: Iterator[pa.RecordBatch]) -> Written:
        """One task's rows, all of them or an error that fails the task."""
        return _write(self._plan, self._plan.job, "0", iterator)

    def commit(self, messages: Sequence[WriterCommitMessage | None]) -> None:
        """All tasks are done."""
        _log_total(messages)

    def abort(self, messages: Sequence[WriterCommitMessage | None]) -> None:
        """Nothing can be taken back."""
        _log_abort(messages)


class PubSubStreamWriter(DataSourceStreamArrowWriter):
    """`df.writeStream.format("pubsub")`. Pickled to each task."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def write(self, iterator: Iterator[pa.RecordBatch]) -> Written:
        """One task's rows of a micro-batch, all of them or an error that fails the task."""
        context = TaskContext.get()
        query, batch = (
            (context and context.getLocalProperty(name)) or ""
            for name in ("sql.streaming.queryId", "streaming.sql.batchId")
        )
        return _write(self._plan, query, batch, iterator)

    def commit(self, messages: Sequence[WriterCommitMessage | None], batchId: int) -> None:  # noqa: N803
        """All tasks of the micro-batch are done."""
        _log_total(messages)

    def abort(self, messages: Sequence[WriterCommitMessage | None], batchId: int) -> None:  # noqa: N803
        """Nothing can be taken back: Spark runs the micro-batch again, and its messages come again."""
        _log_abort(messages)


def _write(plan: Plan, query: str, batch: str, iterator: Iterator[pa.RecordBatch]) -> Written:
    first = next(iterator, None)
    if first is None:
        return Written(0, 0, 0, 0)
    options = plan.options
    context = TaskContext.get()
    partition, attempt = (0, 0) if context is None else (context.partitionId(), context.attemptNumber())
    trace = Trace(query=query, batch=batch, partition=str(partition)) if options.tracing else None
    node = client(_endpoint(options, partition + attempt))
    _wait_for(node, options.node_wait_s)
    reply: PutReply = write(node, options.settings, first.schema, _again(first, iterator), trace=trace)
    return Written(reply.messages, reply.bytes, reply.skipped, reply.dead_lettered)


def _endpoint(options: SinkOptions, turn: int) -> str:
    """The daemon beside this task, if it is told of one; else one of the option's, tasks and their attempts in turn."""
    own = os.environ.get("PENSTOCK_ENDPOINT")
    if own and (not options.endpoints or len(options.endpoints) > 1):
        return own
    return options.endpoints[turn % len(options.endpoints)] if options.endpoints else DEFAULT_ENDPOINT


def _wait_for(node: NodeClient, wait_s: float) -> None:
    """Before a row is sent a daemon may be waited for; afterwards its loss is an error.

    Raises `NodeUnreachable`, or `Draining` or `ServiceUnavailable` of one that answers but would take no write.
    """
    until, pause_s = time.monotonic() + wait_s, RETRY_FIRST_S
    while True:
        try:
            _check_taking(node.call("status", StatusRequest(v=PROTOCOL_VERSION)), node.endpoint)
        except (NodeUnreachable, Draining, ServiceUnavailable) as error:
            if time.monotonic() + pause_s >= until:
                raise type(error)(
                    f"{error.message} (waited {wait_s:g} s, option nodeWait)", node=error.node, **error.details
                ) from error
            if pause_s == RETRY_FIRST_S:
                _LOG.warning("waiting up to %g s: %s", wait_s, error)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_LAST_S)
        else:
            return


def _check_taking(status: StatusReply, endpoint: str) -> None:
    if status.state == "draining":
        raise Draining(f"the daemon at {endpoint} is shutting down and takes no new writes", node=status.node)
    if (status.publishing or {}).get("writes", 0) >= MAX_PUTS:
        raise ServiceUnavailable(
            f"the daemon at {endpoint} has {MAX_PUTS} writes already: run fewer tasks at a time, or more daemons",
            node=status.node,
        )


def _again(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest


def _log_total(messages: Sequence[WriterCommitMessage | None]) -> None:
    written = [message for message in messages if isinstance(message, Written)]
    skipped = sum(one.skipped + one.dead_lettered for one in written)
    if skipped:
        _LOG.warning("%d rows that Pub/Sub refuses were left out (option onInvalid)", skipped)
    _LOG.info("published %d messages", sum(one.messages for one in written))


def _log_abort(messages: Sequence[WriterCommitMessage | None]) -> None:
    done = sum(one.messages for one in messages if isinstance(one, Written))
    _LOG.warning("the write failed; at least %d of its messages were published and stay so", done)
