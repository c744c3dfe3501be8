"""Publishing from plain Python, as Spark's sink does."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Self, TypeAlias

import pyarrow as pa

from penstock.client.node import NodeClient
from penstock.client.put import Told
from penstock.client.writing import WriteSettings, write
from penstock.contract import DEFAULT_ENDPOINT, topic_path
from penstock.contract.publishing import FLUSH_TIMEOUT_S, ON_INVALID, RETRY_TIMEOUT_S, PutReply
from penstock.errors import InvalidOption

Rows: TypeAlias = pa.Table | pa.RecordBatch | pa.RecordBatchReader | Iterable[pa.RecordBatch]


class Publisher:
    """Publishes Arrow rows through a daemon.

    ::

        with penstock.Publisher("projects/p/topics/t") as publisher:
            reply = publisher.publish(table)

    Columns: `data` (or `payload`; binary or string), `attributes` (map of strings, or a JSON object of them as text),
    `ordering_key`, `topic` (full name, or an ID with `project_id`), which stands above the publisher's own. With
    `as_json` all columns but the last three are the payload, as JSON. Nulls are absent. May be used from several
    threads. Raises `PenstockError` from every call.

    Parameters
    ----------
    topic
        Full name, or an ID with `project_id`; None where every row names its own.
    endpoint
        `host:port` of the daemon; default: `PENSTOCK_ENDPOINT`, or localhost:8815.
    flush_timeout_s
        From the last row until all are confirmed.
    retry_timeout_s
        For all tries of one request.
    compress_above_bytes
        Requests larger than this go with gzip; None: none.
    create_topic
        Create topics that do not exist.
    on_invalid
        For rows that Pub/Sub would refuse: `fail`, `skip`, or `deadletter`, which needs `dead_letter_topic`.

    """

    def __init__(  # noqa: PLR0913 - options, all with defaults
        self,
        topic: str | None = None,
        *,
        project_id: str | None = None,
        endpoint: str | None = None,
        as_json: bool = False,
        flush_timeout_s: float = FLUSH_TIMEOUT_S,
        retry_timeout_s: float = RETRY_TIMEOUT_S,
        compress_above_bytes: int | None = None,
        create_topic: bool = False,
        on_invalid: str = "fail",
        dead_letter_topic: str | None = None,
    ) -> None:
        if on_invalid not in ON_INVALID:
            raise InvalidOption(f"on_invalid={on_invalid!r}: one of {', '.join(ON_INVALID)}")
        if (on_invalid == "deadletter") != (dead_letter_topic is not None):
            raise InvalidOption("on_invalid='deadletter' and dead_letter_topic go together")
        self._settings = WriteSettings(
            topic=None if topic is None else topic_path(topic, project_id),
            project=project_id,
            as_json=as_json,
            flush_timeout_s=flush_timeout_s,
            retry_timeout_s=retry_timeout_s,
            compress_above_bytes=compress_above_bytes,
            create_topic=create_topic,
            on_invalid=on_invalid,
            dead_letter_topic=None if dead_letter_topic is None else topic_path(dead_letter_topic, project_id),
        )
        self._node = NodeClient(endpoint or os.environ.get("PENSTOCK_ENDPOINT") or DEFAULT_ENDPOINT)

    def __enter__(self) -> Self:
        """Close with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def publish(self, rows: Rows, *, told: Told | None = None) -> PutReply:
        """Publish all rows; returns when Pub/Sub has confirmed each, with their number and message IDs.

        Iterables of record batches are published as they come, and have the schema of the first one; without any
        there is nothing to do. `told` is called with progress now and then, on a thread of its own; what it
        raises ends the write.

        Raises `PublishFailed`, `InvalidMessage`, `NodeUnreachable`: then some rows may have been published
        (`details["published"]` of them for certain, where the daemon could still say so).
        """
        schema, batches = _batches(rows)
        if schema is None:
            return PutReply(rows=0, messages=0, bytes=0, requests=0)
        return write(self._node, self._settings, schema, batches, told=told)

    def close(self) -> None:
        """Begin nothing more; a running `publish` goes on to its end."""
        self._node.close()


def _batches(rows: Rows) -> tuple[pa.Schema | None, Iterable[pa.RecordBatch]]:
    if isinstance(rows, pa.RecordBatch):
        return rows.schema, [rows]
    if isinstance(rows, pa.Table):
        return rows.schema, rows.to_batches()
    if isinstance(rows, pa.RecordBatchReader):
        return rows.schema, rows
    iterator: Iterator[pa.RecordBatch] = iter(rows)
    first = next(iterator, None)
    if first is None:
        return None, []
    return first.schema, _again(first, iterator)


def _again(first: pa.RecordBatch, rest: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
    yield first
    yield from rest
