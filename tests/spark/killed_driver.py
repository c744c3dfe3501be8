"""A query in a process of its own, to be killed: `python -m tests.spark.killed_driver ENDPOINT CHECKPOINT OUTPUT`.

Appends `{"batch", "ids"}` to OUTPUT for every batch with rows.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession

from tests.client.daemon import SUBSCRIPTION


def main(endpoint: str, checkpoint: str, output: Path) -> None:
    """Run until killed."""
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.log.level", "OFF")
        .getOrCreate()
    )

    def keep(rows: DataFrame, batch: int) -> None:
        if ids := [row.message_id for row in rows.select("message_id").collect()]:
            with output.open("a") as file:
                file.write(json.dumps({"batch": batch, "ids": ids}) + "\n")

    source = spark.readStream.format("pubsub").option("subscriptionId", SUBSCRIPTION).option("daemons", endpoint).load()
    source.writeStream.foreachBatch(keep).option("checkpointLocation", checkpoint).start().awaitTermination()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
