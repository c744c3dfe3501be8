"""A query over Spark Connect: `python -m tests.spark.connect_query ENDPOINT FOLDER`. Runs until its input ends.

Then it prints a JSON list of the message IDs that its file sink has.
"""

from __future__ import annotations

import json
import sys

from pyspark.sql import SparkSession
from pyspark.sql.connect.session import SparkSession as ConnectSession
from tests.client.daemon import SUBSCRIPTION


def main(endpoint: str, folder: str) -> None:
    """Start a server and a client of it; the query knows the client only."""
    spark = (
        SparkSession.builder.remote("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.connect.grpc.binding.address", "127.0.0.1")
        .config("spark.log.level", "OFF")
        .getOrCreate()
    )
    assert isinstance(spark, ConnectSession)
    source = spark.readStream.format("pubsub").option("subscriptionId", SUBSCRIPTION).option("daemons", endpoint).load()
    writer = source.select("message_id").writeStream.format("json").option("checkpointLocation", f"{folder}/checkpoint")
    query = writer.start(f"{folder}/rows")
    sys.stdin.read()
    failure = query.exception()
    query.stop()
    if failure is not None:
        raise failure
    ids = [row.message_id for row in spark.read.schema("message_id string").json(f"{folder}/rows").collect()]
    print(json.dumps(sorted(ids)), flush=True)
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
