"""A daemon process with `data_dir`, killed -9 and started again under a query: nothing is lost or moved."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pyspark.sql.functions as f
import pytest
from google.pubsub_v1 import PublisherClient, PubsubMessage, SubscriberClient
from google.pubsub_v1.types import Subscription
from pyspark.sql import DataFrame, SparkSession
from tests.processes import NAME, TOPIC, Daemon, Site, connects, free_port
from tests.processes import until as until_true
from tests.spark.running import running, until

from penstock.emulator import FaultClient

pytestmark = pytest.mark.timeout(300)  # daemons start several times, and what was unsealed waits for its deadline

DEADLINE_S = 20
"""Of leases: long enough for a restart on a busy machine, short enough to wait for."""

KEYS = 5
PER_BATCH = 40


class Fragile:
    """A daemon on an emulator, which is killed outright and comes back by itself."""

    def __init__(self, folder: Path) -> None:
        port, http_port = free_port(), free_port()
        self.site = Site(folder, f"127.0.0.1:{port}")
        self.faults = FaultClient(f"127.0.0.1:{http_port}")
        self.site.penstock("emulator.log", "emulator", "--port", str(port), "--http-port", str(http_port), "--faults")
        until_true(lambda: connects(port) and connects(http_port), 60)
        self.kills = 0
        self._flags = ("--data-dir", str(folder / "data"), "--set", f"pubsub.ack_deadline_s={DEADLINE_S}")
        self._restarts: list[threading.Thread] = []

    def start(self, port: int | None = None) -> None:
        self.daemon: Daemon = self.site.serve(*self._flags, port=port)

    def kill(self) -> None:
        """-9 now; the restart takes place beside whoever finds it gone."""
        self.kills += 1
        self.daemon.process.kill()
        self.daemon.process.wait()
        self._restarts.append(threading.Thread(target=self.start, args=(self.daemon.port,)))
        self._restarts[-1].start()

    def join(self) -> None:
        """Return when it is back."""
        for thread in self._restarts:
            thread.join()

    def publish(self, first: int, count: int) -> None:
        """Numbered messages, each of one of `KEYS` keys in turn."""
        rows = [PubsubMessage(data=b"%d" % n, ordering_key=f"k{n % KEYS}") for n in range(first, first + count)]
        PublisherClient().publish(topic=TOPIC, messages=rows)

    @property
    def remaining(self) -> int:
        return int(self.faults.statistics(NAME)["remaining"])


@pytest.fixture
def fragile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fragile]:
    fragile = Fragile(tmp_path)
    with fragile.site:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", fragile.site.pubsub)
        PublisherClient().create_topic(name=TOPIC)
        SubscriberClient().create_subscription(
            request=Subscription(name=NAME, topic=TOPIC, ack_deadline_seconds=10, enable_message_ordering=True)
        )
        fragile.start()
        yield fragile
        fragile.join()


class Numbers:
    """Keeps what a batch was given; before and after it reads, `around` may do something."""

    def __init__(self, around: Callable[[int, str], None]) -> None:
        self.batches: dict[int, list[int]] = {}
        self._around = around

    def __call__(self, batch: DataFrame, number: int) -> None:
        self._around(number, "before")
        rows = [int(row.number) for row in batch.select("number").collect()]
        if rows:
            self.batches[number] = rows
            self._around(number, "after")

    @property
    def rows(self) -> list[int]:
        return [row for _, rows in sorted(self.batches.items()) for row in rows]


def reading(spark: SparkSession, fragile: Fragile) -> DataFrame:
    options = {"subscriptionId": NAME, "daemons": fragile.daemon.endpoint, "maxRecordsPerTrigger": str(PER_BATCH)}
    df = spark.readStream.format("pubsub").options(**options, nodeWait="120s", numPartitions="2").load()
    return df.select(f.col("data").cast("string").alias("number"))


def test_tasks_wait_for_a_killed_daemon_and_every_row_comes_once(
    spark: SparkSession, fragile: Fragile, checkpoint: str
) -> None:
    def kill_before_the_second_batch_is_read(number: int, when: str) -> None:
        if len(sink.batches) == 1 and when == "before" and not fragile.kills:
            fragile.kill()

    sink = Numbers(kill_before_the_second_batch_is_read)
    fragile.publish(0, 3 * PER_BATCH)
    with running(reading(spark, fragile), checkpoint, sink) as query:
        until(lambda: len(sink.rows) >= 3 * PER_BATCH and not fragile.remaining, query)
        fragile.join()
    assert fragile.kills == 1
    assert sorted(sink.rows) == list(range(3 * PER_BATCH))


def test_keys_stay_in_order_over_kills_inside_and_between_epochs_and_over_task_retries(
    spark: SparkSession, fragile: Fragile, checkpoint: str, tmp_path: Path
) -> None:
    marker = str(tmp_path / "failed")

    @f.udf("string", useArrow=False)
    def fails_once(number: str) -> str:
        if not Path(marker).exists():
            Path(marker).touch()
            raise ValueError("bad luck")
        return number

    def kill(number: int, when: str) -> None:
        inside = len(sink.batches) == 1 and when == "before" and fragile.kills == 0
        between = len(sink.batches) == 3 and when == "after" and fragile.kills == 1
        if inside or between:
            fragile.join()  # the one before is back
            fragile.kill()

    sink = Numbers(kill)
    fragile.publish(0, 3 * PER_BATCH)
    df = reading(spark, fragile).select(fails_once("number").alias("number"))
    with running(df, checkpoint, sink) as query:
        until(lambda: len(sink.rows) >= 2 * PER_BATCH, query)
        fragile.publish(3 * PER_BATCH, 2 * PER_BATCH)
        until(lambda: len(sink.rows) >= 5 * PER_BATCH and not fragile.remaining, query)
        fragile.join()
    assert fragile.kills == 2
    assert Path(marker).exists()
    by_key: dict[int, list[int]] = defaultdict(list)
    for row in sink.rows:
        by_key[row % KEYS].append(row)
    assert by_key == {key: list(range(key, 5 * PER_BATCH, KEYS)) for key in range(KEYS)}
