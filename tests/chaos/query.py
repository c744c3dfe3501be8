"""The queries under fire, in one driver: `query.py DAEMON FOLDER`.

One writes the numbers of batch N to FOLDER/out/N.json: a sink keyed by the batch's ID, where the last attempt wins. The
other copies its own subscription to the output topic. FOLDER/at-work has this process's ID once both have done
something, which is when faults can hit them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery
from tests.chaos.names import COPIED, KEPT, OUTPUT_TOPIC

ATTEMPTS = 10
"""Of a task: killed workers and cut connections cost one each."""

THREADS = 3
"""Two tasks of the one query and one of the other, so that a query whose tasks wait does not stop the other."""

EVERY = "2 seconds"
"""Batches of the copy: each costs Spark Python processes to plan and to commit it, besides those of its tasks."""


def main(daemon: str, folder: Path) -> None:
    """Run until killed, or until a fault ends one of the queries."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = (
        SparkSession.builder.master(f"local[{THREADS}, {ATTEMPTS}]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.log.level", "OFF")
        .getOrCreate()
    )

    def rows(subscription: str, tasks: int) -> DataFrame:
        chosen = {"subscriptionId": subscription, "daemons": daemon, "numPartitions": str(tasks)}
        return spark.readStream.format("pubsub").options(**chosen).load()

    def keep(batch: DataFrame, number: int) -> None:
        numbers = [int(row.number) for row in batch.selectExpr("cast(data as string) as number").collect()]
        written = folder / "out" / f"{number}.tmp"
        written.write_text(json.dumps(numbers))
        written.replace(folder / "out" / f"{number}.json")

    keeping = rows(KEPT, 2).writeStream.foreachBatch(keep)
    copying = rows(COPIED, 1).select("data").writeStream.format("pubsub")
    copying = copying.options(topicId=OUTPUT_TOPIC, daemons=daemon, tracing="true").trigger(processingTime=EVERY)
    queries = [
        keeping.option("checkpointLocation", str(folder / "checkpoint")).start(),
        copying.option("checkpointLocation", str(folder / "checkpoint-copying")).start(),
    ]
    while not all(map(_has_had_rows, queries)):
        if not all(query.isActive for query in queries):
            break
        time.sleep(0.1)
    (folder / "at-work").write_text(str(os.getpid()))
    spark.streams.awaitAnyTermination()


def _has_had_rows(query: StreamingQuery) -> bool:
    return any(progress.numInputRows for progress in query.recentProgress)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
