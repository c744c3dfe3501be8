"""A query in a process of its own, to be killed: `query_process.py ENDPOINT CHECKPOINT OUT`.

Writes the message IDs of batch N to OUT/N.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession

SUBSCRIPTION = "projects/p/subscriptions/orders"


def main(endpoint: str, checkpoint: str, out: str) -> None:
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

    def keep(batch: DataFrame, number: int) -> None:
        ids = [row.message_id for row in batch.select("message_id").collect()]
        Path(out, f"{number}.json").write_text(json.dumps(ids))

    df = spark.readStream.format("pubsub").options(subscriptionId=SUBSCRIPTION, daemons=endpoint).load()
    query = df.writeStream.foreachBatch(keep).option("checkpointLocation", checkpoint).start()
    query.awaitTermination()


if __name__ == "__main__":
    main(*sys.argv[1:])
