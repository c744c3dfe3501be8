"""Subscription → Spark → topic through one daemon process, and writes during which daemons and workers are killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from google.pubsub_v1 import PublisherClient, PubsubMessage, SubscriberClient
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f
from tests import processes
from tests.processes import NAME, TOPIC, connects, free_port, until

from penstock.emulator import FaultClient

OUT = "projects/p/topics/large-orders"
READER = "projects/p/subscriptions/large-orders-reader"
ROWS = 30_000
TASKS = 8
"""On two cores: with a second for each Publish there is time to interfere."""

START_S = 100.0

pytestmark = pytest.mark.timeout(300)  # daemons and workers start in the middle of it


class Site(processes.Site):
    faults: FaultClient

    def written(self) -> int:
        count: int = self.faults.statistics(READER)["published"]
        return count

    def read(self) -> list[PubsubMessage]:
        """Everything that came to `OUT`."""
        found: list[PubsubMessage] = []
        with SubscriberClient() as subscriber:
            while self.faults.statistics(READER)["remaining"]:
                got = subscriber.pull(subscription=READER, max_messages=1000).received_messages
                found += [received.message for received in got]
                subscriber.acknowledge(subscription=READER, ack_ids=[received.ack_id for received in got])
        return found


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    port, http_port = free_port(), free_port()
    with Site(tmp_path, f"127.0.0.1:{port}") as site:
        site.faults = FaultClient(f"127.0.0.1:{http_port}")
        site.penstock("emulator.log", "emulator", "--port", str(port), "--http-port", str(http_port), "--faults")
        until(lambda: connects(port) and connects(http_port), 30)
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", site.pubsub)
        for topic, reader in ((TOPIC, NAME), (OUT, READER)):
            PublisherClient().create_topic(name=topic)
            SubscriberClient().create_subscription(name=reader, topic=topic, ack_deadline_seconds=60)
        yield site


def test_what_is_read_is_transformed_and_written_through_one_daemon(
    spark: SparkSession, site: Site, checkpoint: str
) -> None:
    daemon = site.serve()
    orders_ = [{"id": n, "country": "éа"[n % 2], "total": float(n)} for n in range(5000)]
    for start in range(0, 5000, 1000):
        messages = [
            PubsubMessage(data=json.dumps(one).encode(), attributes={"n": str(one["id"])})
            for one in orders_[start : start + 1000]
        ]
        PublisherClient().publish(topic=TOPIC, messages=messages)
    orders = (
        spark.readStream.format("pubsub")
        .options(subscriptionId=NAME, daemons=daemon.endpoint, availableNowIdle="1s")
        .load()
    )
    # As in the README.
    order = f.from_json(f.col("data").cast("string"), "id long, country string, total double")
    large = orders.select(order.alias("o"), "attributes").where("o.total > 1000")
    written = large.select(f.to_json("o").alias("data"), "attributes", f.col("o.country").alias("ordering_key"))
    query = (
        written.writeStream.format("pubsub")
        .options(projectId="p", topicId="large-orders", daemons=daemon.endpoint)
        .option("checkpointLocation", checkpoint)
        .trigger(availableNow=True)
        .start()
    )
    assert query.awaitTermination(200), query.lastProgress
    got = [(json.loads(one.data), dict(one.attributes), one.ordering_key) for one in _by_id(site.read())]
    assert [order["id"] for order, _, _ in got] == list(range(1001, 5000))
    assert all(order == orders_[order["id"]] for order, _, _ in got)
    assert all(attributes == {"n": str(order["id"])} for order, attributes, _ in got)
    assert all(key == order["country"] for order, _, key in got)
    assert site.faults.statistics(NAME)["remaining"] == 0, "what was written is acknowledged"


def test_what_a_task_published_twice_is_read_once(spark: SparkSession, site: Site, checkpoint: str) -> None:
    daemon = site.serve()
    rows = spark.range(0, 6000, 1, 2).select(f.col("id").cast("string").alias("data"))
    site.faults.fail("Publish", "PERMISSION_DENIED", 1)  # the other requests of that task are confirmed
    rows.write.format("pubsub").options(topicId=TOPIC, daemons=daemon.endpoint, tracing="true").mode("append").save()
    published = site.faults.statistics(NAME)["published"]
    assert published > 6000, "Spark ran a task again, which published its rows again"
    messages = (
        spark.readStream.format("pubsub")
        .options(subscriptionId=NAME, daemons=daemon.endpoint, availableNowIdle="1s", dedupe="true")
        .load()
    )
    found: list[int] = []

    def take(batch: DataFrame, _number: int) -> None:
        found.extend(int(row.data) for row in batch.select("data").collect())

    writer = messages.writeStream.foreachBatch(take).option("checkpointLocation", checkpoint)
    query = writer.trigger(availableNow=True).start()
    assert query.awaitTermination(200), query.lastProgress
    assert sorted(found) == list(range(6000))
    assert site.faults.statistics(NAME)["remaining"] == 0, "the repetitions are acknowledged as well"
    until(lambda: daemon.figures().get("duplicates") == published - 6000)


def _by_id(messages: list[PubsubMessage]) -> list[PubsubMessage]:
    return sorted(messages, key=lambda message: int(json.loads(message.data)["id"]))


def numbered(spark: SparkSession) -> DataFrame:
    data = f.rpad(f.col("id").cast("string"), 500, " ").alias("data")
    return spark.range(0, ROWS, 1, TASKS).select(data)


def write(df: DataFrame, endpoint: str) -> None:
    df.write.format("pubsub").options(topicId=OUT, daemons=endpoint, nodeWait="90s").mode("append").save()


def whole(site: Site) -> None:
    """All rows are there, some perhaps twice."""
    assert {int(message.data) for message in site.read()} == set(range(ROWS))


def test_a_daemon_that_is_killed_and_comes_back_costs_no_row(spark: SparkSession, site: Site) -> None:
    daemon = site.serve()
    site.faults.delay("Publish", 1.0, 1000)

    def interfere() -> None:
        until(lambda: site.written() > 0, START_S)
        daemon.end(signal.SIGKILL)
        assert site.written() < ROWS, "there was more to write"
        site.serve(port=daemon.port)

    # Spark finds Python sources on the thread that made the session only, so the write stays on this one.
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(interfere)
        write(numbered(spark), daemon.endpoint)
        outcome.result(START_S)
    whole(site)


def test_python_workers_that_are_killed_cost_no_row(spark: SparkSession, site: Site) -> None:
    daemon = site.serve()
    site.faults.delay("Publish", 1.0, 1000)

    def interfere() -> None:
        until(lambda: site.written() > 0, START_S)
        for worker in until(lambda: _writers(daemon.port)):
            worker.kill()
        assert site.written() < ROWS, "there was more to write"

    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(interfere)
        write(numbered(spark), daemon.endpoint)
        outcome.result(START_S)
    whole(site)
    until(lambda: "penstock_publish_writes 0.0" in daemon.http("/metrics")[1])


def _writers(port: int) -> list[psutil.Process]:
    """Spark's Python workers that are connected to a daemon."""
    found = []
    for process in psutil.Process(os.getpid()).children(recursive=True):
        if "python" in process.name() and any("pyspark" in part for part in process.cmdline()):
            connections = process.net_connections("tcp")
            if any(one.raddr and one.raddr.port == port for one in connections):
                found.append(process)
    return found
