"""The query under fire: `query.py DAEMON CHECKPOINT OUT`.

Writes the numbers of batch N to OUT/N.json: a sink keyed by the batch's ID, where the last attempt wins.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession

SUBSCRIPTION = "projects/p/subscriptions/orders"
ATTEMPTS = 10
"""Of a task: killed workers and cut connections cost one each."""


def main(daemon: str, checkpoint: str, out: str) -> None:
    """Run until killed, or until a fault ends the query."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = (
        SparkSession.builder.master(f"local[2, {ATTEMPTS}]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.log.level", "OFF")
        .getOrCreate()
    )

    def keep(batch: DataFrame, number: int) -> None:
        numbers = [int(row.number) for row in batch.selectExpr("cast(data as string) as number").collect()]
        written = Path(out, f"{number}.tmp")
        written.write_text(json.dumps(numbers))
        written.replace(Path(out, f"{number}.json"))

    rows = spark.readStream.format("pubsub").options(subscriptionId=SUBSCRIPTION, daemons=daemon).load()
    query = rows.writeStream.foreachBatch(keep).option("checkpointLocation", checkpoint).start()
    query.awaitTermination()


if __name__ == "__main__":
    main(*sys.argv[1:])
