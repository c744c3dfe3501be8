"""`by_ordering_key` gives each key one task, and no task all the rows that have none."""

from __future__ import annotations

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from penstock.errors import InvalidOption
from pyspark_pubsub import by_ordering_key


def keyed(spark: SparkSession) -> DataFrame:
    return spark.range(0, 900, 1, 3).select(
        f.col("id").cast("string").alias("data"),
        f.create_map(f.lit("n"), f.col("id").cast("string")).alias("attributes"),
        f.when(f.col("id") % 3 == 0, f.concat(f.lit("key"), f.col("id") % 7))
        .when(f.col("id") % 3 == 1, f.lit(""))
        .alias("ordering_key"),
    )


def test_rows_of_a_key_are_in_one_partition_and_rows_without_one_in_all(spark: SparkSession) -> None:
    made = by_ordering_key(keyed(spark), 4).select("ordering_key", "data", f.spark_partition_id().alias("at")).collect()
    assert sorted(int(row.data) for row in made) == list(range(900))
    places: dict[str | None, set[int]] = {}
    for row in made:
        places.setdefault(row.ordering_key, set()).add(row.at)
    assert places.pop(None) == places.pop("") == {0, 1, 2, 3}
    assert len(places) == 7
    assert all(len(at) == 1 for at in places.values())


def test_the_number_of_partitions_is_sparks_own_unless_given(spark: SparkSession) -> None:
    assert by_ordering_key(keyed(spark), 5).rdd.getNumPartitions() == 5
    assert by_ordering_key(keyed(spark)).select("ordering_key").distinct().count() == 9


def test_rows_without_the_column_are_refused(spark: SparkSession) -> None:
    with pytest.raises(InvalidOption, match="no column ordering_key among id"):
        by_ordering_key(spark.range(1))
