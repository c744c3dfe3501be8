"""The Spark side of the demo: counts and bytes per city, from the `pubsub` format."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.demo.processes import DemoFailed
from penstock.demo.tally import LATENCY_STEP_MS, Group, Tally

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming.query import StreamingQuery


def session() -> SparkSession:
    """A local Spark that keeps quiet. Raises `DemoFailed` when pyspark or Java is missing."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    quiet = Path(__file__).with_name("log4j2.properties").as_uri()
    try:
        from pyspark.errors import PySparkException  # noqa: PLC0415 - an extra of its own, asked for here
        from pyspark.sql import SparkSession  # noqa: PLC0415
    except ImportError as error:
        raise DemoFailed("the demo needs Spark: pip install 'penstock[daemon,spark]'") from error
    try:
        return (
            SparkSession.builder.master("local[*]")
            .appName("penstock demo")
            .config("spark.ui.enabled", "false")
            .config("spark.ui.showConsoleProgress", "false")
            .config("spark.sql.shuffle.partitions", "2")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.driver.extraJavaOptions", f"-Dlog4j2.configurationFile={quiet}")
            .getOrCreate()
        )
    except PySparkException as error:
        raise DemoFailed(
            f"Spark did not start; it needs Java 17 or newer (JAVA_HOME or `java` on the path): {error}"
        ) from error


def start(
    spark: SparkSession, *, project: str, subscription: str, daemon: str, checkpoint: str, tally: Tally
) -> StreamingQuery:
    """Count what arrives, batch by batch, until stopped."""
    from pyspark.sql import functions as f  # noqa: PLC0415

    def count(batch: DataFrame, batch_id: int) -> None:
        step = f.floor(f.unix_micros("publish_time") / (LATENCY_STEP_MS * 1000))
        groups = (
            batch.groupBy(f.col("attributes")["city"].alias("city"), step.alias("step"))
            .agg(f.count("*").alias("messages"), f.sum(f.length("data")).alias("data_bytes"))
            .collect()
        )
        tally.record(batch_id, (Group(row.city, row.step, row.messages, row.data_bytes) for row in groups), time.time())

    rows = (
        spark.readStream.format("pubsub")
        .option("projectId", project)
        .option("subscriptionId", subscription)
        .option("daemons", daemon)
        .load()
    )
    return rows.writeStream.foreachBatch(count).option("checkpointLocation", checkpoint).start()
