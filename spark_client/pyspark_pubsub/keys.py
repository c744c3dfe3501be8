"""Rows of one ordering key brought into one task, since Spark lets no Python sink ask for a distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def by_ordering_key(df: DataFrame, partitions: int | None = None) -> DataFrame:
    """The same rows, those of each `ordering_key` in one partition; rows without a key are spread over all.

    A shuffle leaves rows in no order: follow it with `sortWithinPartitions("ordering_key", …)`. `partitions`: how many
    there are; None: as many as Spark's own `repartition` makes. Where a row goes depends on its values only, so
    that a task that is run again has the same rows.

    Raises `InvalidOption` for rows without a column `ordering_key`.
    """
    from pyspark.sql import functions as f  # noqa: PLC0415

    from penstock.errors import InvalidOption  # noqa: PLC0415

    if "ordering_key" not in df.columns:
        raise InvalidOption(
            f"by_ordering_key: there is no column ordering_key among {', '.join(df.columns)}: select it, or write the "
            "rows as they are"
        )
    key = f.col("ordering_key")
    # Spark hashes no maps.
    others = [
        f"`{name.replace('`', '``')}`" for name, kind in df.dtypes if "map<" not in kind and name != "ordering_key"
    ]
    spread = f.xxhash64(*others) if others else f.lit(0)
    place = f.when(key.isNull() | (key == ""), spread).otherwise(f.xxhash64(key))
    return df.repartition(place) if partitions is None else df.repartition(partitions, place)
