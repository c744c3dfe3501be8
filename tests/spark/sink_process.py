"""A stream to a topic in a process of its own, to be killed: `sink_process.py ENDPOINT CHECKPOINT FOLDER`."""

from __future__ import annotations

import os
import sys

from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery

TOPIC = "projects/p/topics/orders"


def copying(spark: SparkSession, endpoint: str, checkpoint: str, folder: str) -> StreamingQuery:
    """Each Parquet file of the folder is a batch; its column `data` is published."""
    rows = spark.readStream.schema("data string").option("maxFilesPerTrigger", "1").parquet(folder)
    writer = rows.writeStream.format("pubsub").options(topicId=TOPIC, daemons=endpoint, tracing="true")
    return writer.option("checkpointLocation", checkpoint).start()


def main(endpoint: str, checkpoint: str, folder: str) -> None:
    """Run until killed."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.log.level", "OFF")
        .getOrCreate()
    )
    copying(spark, endpoint, checkpoint, folder).awaitTermination()


if __name__ == "__main__":
    main(*sys.argv[1:])
