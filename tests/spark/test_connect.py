"""The source through Spark Connect: found and run by the server, nothing of it in the client."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.client.daemon import Daemon
from tests.spark.running import until

pytest.importorskip("grpc_status", reason="Spark Connect needs grpcio-status")

CLIENT = """
import os, sys
os.environ["PYSPARK_PYTHON"] = sys.executable
from pyspark.sql import SparkSession

endpoint, folder = sys.argv[1:]
spark = (
    SparkSession.builder.remote("local[2]")
    .config("spark.ui.enabled", "false")
    .config("spark.driver.bindAddress", "127.0.0.1")
    .config("spark.driver.host", "127.0.0.1")
    .getOrCreate()
)
assert "connect" in type(spark).__module__
df = (
    spark.readStream.format("pubsub")
    .options(subscriptionId="projects/p/subscriptions/orders", daemons=endpoint).load()
)
query = (
    df.select("message_id").writeStream.format("json")
    .option("path", folder + "/rows").option("checkpointLocation", folder + "/checkpoint").start()
)
sys.stdin.readline()
query.stop()
spark.stop()
"""


@pytest.mark.timeout(300)
def test_a_query_of_a_connect_client_reads_and_acknowledges(daemon: Daemon, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SPARK_")}
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, daemon.endpoint, str(tmp_path)], stdin=subprocess.PIPE, env=environment
    ) as client:
        try:
            until(lambda: "seal" in daemon.calls or client.poll() is not None)
            sent = daemon.publish(10)
            until(lambda: daemon.acknowledged() == sent or client.poll() is not None)
            assert client.stdin is not None
            client.stdin.write(b"\n")
            client.stdin.flush()
            assert client.wait(60) == 0
        finally:
            client.kill()
    assert daemon.acknowledged() == sent
    assert sum(path.read_text().count("message_id") for path in (tmp_path / "rows").glob("*.json")) == 10
