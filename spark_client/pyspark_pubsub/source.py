"""What Spark finds under the name `pubsub`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql.datasource import DataSource

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from pyspark.sql.datasource import (
        DataSourceReader,
        DataSourceStreamReader,
        DataSourceStreamWriter,
        DataSourceWriter,
    )
    from pyspark.sql.types import StructType

    from pyspark_pubsub.options import Options

# The lowest release with `latestOffset(start, limit)` and `SupportsTriggerAvailableNow`.
LOWEST_SPARK = (4, 2)


class DefaultSource(DataSource):
    """`readStream`, `writeStream` and `write` of format "pubsub". Holds the options, nothing else: Spark pickles it."""

    def __init__(self, options: MutableMapping[str, str]) -> None:
        self.options = dict(options.items())

    @classmethod
    def name(cls) -> str:
        """The format."""
        return "pubsub"

    def schema(self) -> StructType:
        """The columns chosen; every option is checked here, before anything is read. Raises `InvalidOption`."""
        from pyspark_pubsub.columns import spark_schema  # noqa: PLC0415

        return spark_schema(self._checked().columns)

    def streamReader(self, schema: StructType) -> DataSourceStreamReader:  # noqa: N802
        """The reader. Raises `InvalidOption`, also for a `.schema(…)` that is not the source's own."""
        from pyspark_pubsub.columns import check_schema  # noqa: PLC0415

        options = self._checked()
        check_schema(schema, options.columns)
        from pyspark_pubsub.reader import PubSubStreamReader  # noqa: PLC0415

        return PubSubStreamReader(options)

    def reader(self, schema: StructType) -> DataSourceReader:
        """Refuse `spark.read`, saying what to do instead."""
        from penstock.errors import InvalidOption  # noqa: PLC0415

        raise InvalidOption(
            'format "pubsub" cannot be read with spark.read, which never tells a source that its rows were processed: '
            'use spark.readStream.format("pubsub") with .trigger(availableNow=True), which takes what is there and ends'
        )

    def writer(self, schema: StructType, overwrite: bool) -> DataSourceWriter:  # noqa: FBT001
        """Of `df.write`. Raises `InvalidOption`, also for columns that are no messages, and for save modes."""
        _check_spark()
        from pyspark_pubsub.writer import PubSubWriter, plan_write  # noqa: PLC0415

        return PubSubWriter(plan_write(self.options, schema, overwrite=overwrite, streaming=False))

    def streamWriter(self, schema: StructType, overwrite: bool) -> DataSourceStreamWriter:  # noqa: FBT001, N802
        """Of `df.writeStream`. Raises `InvalidOption`."""
        _check_spark()
        from pyspark_pubsub.writer import PubSubStreamWriter, plan_write  # noqa: PLC0415

        return PubSubStreamWriter(plan_write(self.options, schema, overwrite=overwrite, streaming=True))

    def _checked(self) -> Options:
        _check_spark()
        from pyspark_pubsub.options import Options  # noqa: PLC0415

        return Options.parse(self.options)


def _check_spark() -> None:
    from pyspark import __version__  # noqa: PLC0415

    if tuple(int(part) for part in __version__.split(".")[:2]) < LOWEST_SPARK:
        from penstock.errors import InvalidOption  # noqa: PLC0415

        raise InvalidOption(f'format "pubsub" needs Spark 4.2 or newer; this is {__version__}')
