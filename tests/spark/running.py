"""Starting queries and waiting for what they do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery
from tests.client.daemon import SUBSCRIPTION, Daemon

WAIT_S = 120.0


class Sink:
    """A `foreachBatch` function that keeps the message IDs of each batch."""

    def __init__(self) -> None:
        self.batches: dict[int, list[str]] = {}

    def __call__(self, batch: DataFrame, number: int) -> None:
        self.batches[number] = [row.message_id for row in batch.select("message_id").collect()]

    def rows(self) -> list[str]:
        """All, in the order of batches."""
        return [message for _, ids in sorted(self.batches.items()) for message in ids]


def reading(spark: SparkSession, daemon: Daemon, **options: str) -> DataFrame:
    return (
        spark.readStream.format("pubsub")
        .options(**{"subscriptionId": SUBSCRIPTION, "daemons": daemon.endpoint, "nodeWait": "20s", **options})
        .load()
    )


@contextmanager
def running(df: DataFrame, checkpoint: str, sink: Any, **trigger: Any) -> Iterator[StreamingQuery]:
    writer = df.writeStream.foreachBatch(sink).option("checkpointLocation", checkpoint)
    query = (writer.trigger(**trigger) if trigger else writer).start()
    try:
        yield query
    finally:
        query.stop()


def until(condition: Callable[[], Any], query: StreamingQuery | None = None) -> None:
    """Wait for a condition; a query that ends with an error ends the wait."""
    end = time.monotonic() + WAIT_S
    while not condition():
        if query is not None and query.exception() is not None:
            raise AssertionError(f"the query ended: {query.exception()}")
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def opened(daemon: Daemon, query: StreamingQuery) -> None:
    """Wait until the query has opened its consumer, so that messages are wanted."""
    until(lambda: "seal" in daemon.calls, query)


def log(checkpoint: str, kind: str) -> dict[int, Any]:
    """The JSON of each entry's first source in `offsets` or of `commits`."""
    entries = {}
    for path in sorted(Path(checkpoint, kind).glob("[0-9]*")):
        lines = path.read_text().splitlines()
        entries[int(path.name)] = json.loads(lines[2] if kind == "offsets" else lines[1])
    return entries
