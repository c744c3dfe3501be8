"""Spark's own floors: Python sources of streams with nothing behind them.

`InMemory` yields record batches that were decoded before, the same rows that the daemon would serve: what Spark takes
when rows cost nothing. `Appended` makes one row for each line of a file, and asks the file whenever Spark asks it: what
a row takes through Spark when it is there at once.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path

import pyarrow as pa
from pyspark.sql.datasource import DataSource, DataSourceStreamReader, InputPartition
from pyspark.sql.streaming.datasource import ReadLimit
from pyspark.sql.types import StructType

from benchmarks.messages import Shape, responses
from penstock.contract import project
from penstock.pubsub import wire
from pyspark_pubsub.columns import spark_schema

DECODE_BYTES = 1 << 20
"""As much as the daemon decodes at a time, so that record batches have the same size."""

LINE_CHARACTERS = 32


class Rows(InputPartition):
    """Some rows of one task, by number."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__(None)
        self.first = first
        self.last = last


class InMemory(DataSource):
    """Options: `shape` (a subscription's name), `rows` of each batch, `slices`."""

    def __init__(self, options: MutableMapping[str, str]) -> None:
        self.options = dict(options.items())

    @classmethod
    def name(cls) -> str:
        """The format."""
        return "bench_memory"

    def schema(self) -> StructType:
        """The same columns as `pubsub`."""
        return spark_schema(None)

    def streamReader(self, schema: StructType) -> DataSourceStreamReader:  # noqa: N802 - Spark's name
        """The reader."""
        return InMemoryReader(self.options["shape"], int(self.options["rows"]), int(self.options["slices"]))


class InMemoryReader(DataSourceStreamReader):
    """The next batch is always there."""

    def __init__(self, shape: str, rows: int, slices: int) -> None:
        self._shape = shape
        self._rows = rows
        self._slices = slices

    def initialOffset(self) -> dict[str, int]:  # noqa: N802 - Spark's name
        """Rows so far."""
        return {"rows": 0}

    def latestOffset(self, start: dict[str, int], limit: ReadLimit) -> dict[str, int]:  # noqa: N802 - Spark's name
        """One batch further."""
        return {"rows": start["rows"] + self._rows}

    def partitions(self, start: dict[str, int], end: dict[str, int]) -> list[InputPartition]:
        """The batch in equal parts."""
        rows = end["rows"] - start["rows"]
        cuts = [start["rows"] + rows * i // self._slices for i in range(self._slices + 1)]
        return [Rows(cuts[i], cuts[i + 1]) for i in range(self._slices)] if rows else []

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """As many rows as the partition has, whichever they are."""
        assert isinstance(partition, Rows), "Spark hands back what `partitions` made"
        return _repeated(decoded(self._shape), partition.last - partition.first)


class Appended(DataSource):
    """Option `path`: a file of lines of the same length, each the `data` of one row."""

    def __init__(self, options: MutableMapping[str, str]) -> None:
        self.options = dict(options.items())

    @classmethod
    def name(cls) -> str:
        """The format."""
        return "bench_appended"

    def schema(self) -> StructType:
        """Only `data`."""
        return spark_schema(("data",))

    def streamReader(self, schema: StructType) -> DataSourceStreamReader:  # noqa: N802 - Spark's name
        """The reader."""
        return AppendedReader(self.options["path"])


class AppendedReader(DataSourceStreamReader):
    """Looks at the file's size: nothing is cheaper to ask."""

    def __init__(self, path: str) -> None:
        self._path = path

    def initialOffset(self) -> dict[str, int]:  # noqa: N802 - Spark's name
        """Lines so far."""
        return {"lines": 0}

    def latestOffset(self, start: dict[str, int], limit: ReadLimit) -> dict[str, int]:  # noqa: N802 - Spark's name
        """All lines that are there."""
        return {"lines": os.stat(self._path).st_size // LINE_CHARACTERS}

    def partitions(self, start: dict[str, int], end: dict[str, int]) -> list[InputPartition]:
        """One, if there is anything."""
        return [Rows(start["lines"], end["lines"])] if end["lines"] > start["lines"] else []

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """The lines."""
        assert isinstance(partition, Rows), "Spark hands back what `partitions` made"
        lines = Path(self._path).read_bytes()
        data = [lines[n * LINE_CHARACTERS : (n + 1) * LINE_CHARACTERS] for n in range(partition.first, partition.last)]
        yield pa.RecordBatch.from_arrays([pa.array(data, pa.binary())], schema=project(("data",)))


@functools.lru_cache(maxsize=2)
def decoded(subscription: str) -> list[pa.RecordBatch]:
    """What a Python worker keeps for all its tasks."""
    templates = responses(Shape.of(subscription))
    together = max(1, DECODE_BYTES // len(templates[0]))
    return [wire.decode(templates[i : i + together]).rows for i in range(0, len(templates), together)]


def _repeated(batches: list[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    while rows > 0:
        for batch in batches:
            part = batch if batch.num_rows <= rows else batch.slice(0, rows)
            rows -= part.num_rows
            if part.num_rows:
                yield part


