"""Spark's own limit: Python sources whose rows are in memory already. No network, no daemon, no acknowledgement.

`FromMemory` yields the same rows as the `pubsub` format would, in as many slices and of the same batch size. `OneRow`
makes a row whenever a while has passed, stamped at the moment in which Spark asks for it.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
from pyspark.sql.datasource import DataSource, DataSourceStreamReader, InputPartition
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from benchmarks.messages import Shape, responses
from penstock.contract import ROWS_SCHEMA
from penstock.pubsub import wire

DECODE_BYTES = 2 << 20
PAUSE_S = 0.3


@functools.cache
def chunks(subscription: str) -> list[pa.RecordBatch]:
    """Decoded as the daemon does it, once in each Python worker."""
    templates = responses(Shape.of(subscription))
    together = math.ceil(DECODE_BYTES / len(templates[0]))
    return [wire.decode(templates[i : i + together]).rows for i in range(0, len(templates), together)]


class Slice(InputPartition):
    """So many rows, or the one of that moment."""

    def __init__(self, value: int) -> None:
        super().__init__(value)


class _Source(DataSource):
    def schema(self) -> StructType:
        """The schema of the `pubsub` format."""
        return from_arrow_schema(ROWS_SCHEMA)


class FromMemory(_Source):
    """Options: `subscription` (a shape), `rows` in a batch, `slices`."""

    @classmethod
    def name(cls) -> str:
        """The format."""
        return "from_memory"

    def streamReader(self, schema: StructType) -> FromMemoryReader:
        """See `DataSource`."""
        return FromMemoryReader(self.options)


class FromMemoryReader(DataSourceStreamReader):
    """The offset is the number of rows so far."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self._subscription = options["subscription"]
        self._rows = int(options["rows"])
        self._slices = int(options["slices"])

    def initialOffset(self) -> dict[str, Any]:
        """Nothing yet."""
        return {"rows": 0}

    def latestOffset(self, start: dict[str, Any], limit: object) -> dict[str, Any]:
        """One batch more, always."""
        return {"rows": start["rows"] + self._rows}

    def partitions(self, start: dict[str, Any], end: dict[str, Any]) -> list[Slice]:
        """Equal slices."""
        return [Slice((end["rows"] - start["rows"]) // self._slices) for _ in range(self._slices)]

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """Rows of the templates, over and over."""
        left = partition.value
        while left > 0:
            for chunk in chunks(self._subscription):
                if left <= 0:
                    return
                yield chunk if chunk.num_rows <= left else chunk.slice(0, left)
                left -= chunk.num_rows


class OneRow(_Source):
    """No options."""

    @classmethod
    def name(cls) -> str:
        """The format."""
        return "one_row"

    def streamReader(self, schema: StructType) -> OneRowReader:
        """See `DataSource`."""
        return OneRowReader()


class OneRowReader(DataSourceStreamReader):
    """The offset is the moment (ns) of the last row."""

    def initialOffset(self) -> dict[str, Any]:
        """No row yet."""
        return {"at_ns": 0}

    def latestOffset(self, start: dict[str, Any], limit: object) -> dict[str, Any]:
        """A new row if the last one is `PAUSE_S` old; so the query was idle before it."""
        now = time.time_ns()
        return {"at_ns": now} if now - start["at_ns"] > PAUSE_S * 1e9 else start

    def partitions(self, start: dict[str, Any], end: dict[str, Any]) -> list[Slice]:
        """One."""
        return [Slice(end["at_ns"])]

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """The row."""
        row = {"message_id": "1", "data": json.dumps(partition.value).encode(), "attributes": {}}
        yield pa.RecordBatch.from_pylist([row], schema=ROWS_SCHEMA)
