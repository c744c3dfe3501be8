"""Whatever dies in the middle of a write: what a finished batch covered is on the topic, and nothing hangs."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.pubsub_v1 import PublisherClient, SubscriberClient
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql import functions as f
from pyspark.sql.streaming.query import StreamingQuery
from tests.chaos.output import Sunk, compared, drained
from tests.chaos.proxy import Proxy
from tests.processes import NAME, TOPIC
from tests.processes import until as until_true
from tests.service.conftest import Site, emulated
from tests.spark import sink_process
from tests.spark.running import until
from tests.spark.sink_process import copying

pytestmark = pytest.mark.timeout(300)  # Sparks and daemons start several times

ROWS = 10_000
HELD_REQUESTS = 2
HELD_ROWS = HELD_REQUESTS * 1000
"""Of a batch, which wait in the emulator while the rest is confirmed."""

LONG_S = 50.0

HALF_A_WRITE_BYTES = 500_000
"""Of about 1 MB that `ROWS` rows take on the way to the emulator."""


class Feed:
    """A folder that a stream reads: one file of `ROWS` numbered rows for each batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.batches = 0
        folder.mkdir()

    @property
    def rows(self) -> int:
        return self.batches * ROWS

    def add(self) -> None:
        table = pa.table({"data": [str(number) for number in range(self.rows, self.rows + ROWS)]})
        hidden = self.folder / "_writing"
        pq.write_table(table, hidden)
        hidden.rename(self.folder / f"{self.batches}.parquet")
        self.batches += 1


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with emulated(tmp_path, monkeypatch) as site:
        yield site


@pytest.fixture
def feed(tmp_path: Path) -> Feed:
    return Feed(tmp_path / "rows")


def published(site: Site) -> int:
    return int(site.statistics()["published"])


def finished(checkpoint: str, batch: int) -> bool:
    return Path(checkpoint, "commits", str(batch)).exists()


def first_done(driver: subprocess.Popen[bytes], checkpoint: str, batch: int) -> bool:
    assert driver.poll() is None, "the driver ended by itself; see driver.log"
    return finished(checkpoint, batch)


def half_written(site: Site, feed: Feed, query: StreamingQuery | None = None, *, held_s: float = LONG_S) -> None:
    """Return when all of the feed's next batch is confirmed but `HELD_ROWS`, which wait for so long."""
    before = published(site)
    site.faults.delay("Publish", held_s, HELD_REQUESTS)
    feed.add()
    until(lambda: published(site) >= before + ROWS - HELD_ROWS, query)


def assert_each_row_is_there(sunk: Sunk, *, repeated: int) -> None:
    """Nothing lost, at least so many twice, and every repetition under the name that the row had before."""
    assert sunk.lost == 0
    assert (sunk.duplicates_after_dedupe, sunk.misnamed) == (0, 0)
    assert sunk.duplicates >= repeated


@pytest.mark.long
def test_a_driver_that_is_killed_goes_on_from_its_checkpoint_and_leaves_no_process_behind(
    site: Site, feed: Feed, checkpoint: str, tmp_path: Path
) -> None:
    daemon = site.serve()
    arguments = [sys.executable, "-m", sink_process.__name__, daemon.endpoint, checkpoint, str(feed.folder)]
    for victim in ("java", "python"):
        with (tmp_path / "driver.log").open("ab") as log:
            driver = subprocess.Popen(arguments, start_new_session=True, stdout=log, stderr=log)
        try:
            feed.add()
            until(functools.partial(first_done, driver, checkpoint, feed.batches - 1))
            half_written(site, feed)
            processes = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
            next(process for process in processes if victim in process.name()).kill()
            # Whichever half dies, the other one and all workers end by themselves, and with them their write, which
            # would go on for longer than this.
            assert psutil.wait_procs([p for p in processes if p.pid != driver.pid], LONG_S - 10)[1] == []
            driver.wait(60)
            until_true(lambda: "penstock_publish_writes 0.0" in daemon.http("/metrics")[1])
            assert not finished(checkpoint, feed.batches - 1)
        finally:
            if driver.poll() is None:
                os.killpg(driver.pid, signal.SIGKILL)
                driver.wait(10)
    # The first driver's last batch was finished by the second, whose own last one was not.
    assert_each_row_is_there(compared(drained(NAME), feed.rows - ROWS), repeated=ROWS - HELD_ROWS)


@pytest.mark.parametrize("victim", [pytest.param("daemon", marks=pytest.mark.long), "workers"])
def test_a_killed_task_or_daemon_costs_the_stream_a_task_and_no_row(
    spark: SparkSession, site: Site, feed: Feed, checkpoint: str, victim: str
) -> None:
    daemon = site.serve()
    query = copying(spark, daemon.endpoint, checkpoint, str(feed.folder))
    try:
        feed.add()
        until(lambda: finished(checkpoint, 0), query)
        half_written(site, feed, query)
        if victim == "daemon":
            daemon.end(signal.SIGKILL)
            site.serve(port=daemon.port)
        else:
            for worker in python_workers():
                worker.kill()
        feed.add()
        until(lambda: finished(checkpoint, 2), query)
    finally:
        query.stop()
    assert_each_row_is_there(compared(drained(NAME), feed.rows), repeated=ROWS - HELD_ROWS)


def python_workers() -> list[psutil.Process]:
    """Of this process's Spark: what its `pyspark.daemon` has forked."""

    def forked(process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):  # some end by themselves, meanwhile
            parent = process.parent()
            return parent is not None and all("pyspark.daemon" in " ".join(one.cmdline()) for one in (process, parent))
        return False

    found = [process for process in psutil.Process().children(recursive=True) if forked(process)]
    assert found, "a task runs"
    return found


@pytest.mark.long
def test_a_topic_that_is_deleted_half_way_ends_the_stream_which_goes_on_when_there_is_one_again(
    spark: SparkSession, site: Site, feed: Feed, checkpoint: str
) -> None:
    daemon = site.serve()
    query = copying(spark, daemon.endpoint, checkpoint, str(feed.folder))
    feed.add()
    until(lambda: finished(checkpoint, 0), query)
    half_written(site, feed, query, held_s=2.0)
    PublisherClient().delete_topic(topic=TOPIC)
    until(lambda: query.exception() is not None)
    words = str(query.exception())
    assert f"PUBLISH_FAILED: publishing to {TOPIC}: NOT_FOUND" in words.replace("[", "").replace("] ", ": ")
    assert "create the topic, or set createTopic=true" in words
    assert not finished(checkpoint, 1)
    again = f"{NAME}-again"
    PublisherClient().create_topic(name=TOPIC)
    SubscriberClient().create_subscription(name=again, topic=TOPIC, ack_deadline_seconds=10)
    query = copying(spark, daemon.endpoint, checkpoint, str(feed.folder))
    try:
        until(lambda: finished(checkpoint, 1), query)
    finally:
        query.stop()
    assert_each_row_is_there(compared([*drained(NAME), *drained(again)], feed.rows), repeated=ROWS - HELD_ROWS)


def written(spark: SparkSession, endpoint: str, **options: str) -> None:
    """A batch write of `ROWS` rows in one task."""
    rows = spark.range(0, ROWS, 1, 1).select(f.col("id").cast("string").alias("data"))
    chosen = {"topicId": TOPIC, "daemons": endpoint, "tracing": "true", **options}
    rows.write.format("pubsub").options(**chosen).mode("append").save()


@pytest.fixture
def meanwhile() -> Iterator[ThreadPoolExecutor]:
    """What is done to a write: Spark finds Python data sources only on threads that a session was made on."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.mark.long
def test_a_quota_that_is_used_up_is_waited_for_and_every_row_is_published_once(
    spark: SparkSession, site: Site, meanwhile: ThreadPoolExecutor
) -> None:
    daemon = site.serve()
    is_open = f'penstock_topic_breaker_open{{topic="{TOPIC}"}} 1.0'

    def clear_when_it_is_an_outage() -> None:
        until(lambda: is_open in daemon.http("/metrics")[1])
        site.faults.clear()

    site.faults.fail("Publish", "RESOURCE_EXHAUSTED", 1_000_000)
    clearing = meanwhile.submit(clear_when_it_is_an_outage)
    written(spark, daemon.endpoint)
    clearing.result()
    assert published(site) == ROWS
    assert_each_row_is_there(compared(drained(NAME), ROWS), repeated=0)


def test_a_quota_that_stays_used_up_fails_the_write_naming_the_option(spark: SparkSession, site: Site) -> None:
    daemon = site.serve()
    site.faults.fail("Publish", "RESOURCE_EXHAUSTED", 1_000_000)
    with pytest.raises(PySparkException, match=r"RESOURCE_EXHAUSTED.*tried for retryTimeout, 0\.5 s"):
        written(spark, daemon.endpoint, retryTimeout="500ms")
    assert published(site) == 0


@pytest.mark.parametrize("option", ["flushTimeout", "retryTimeout"])
def test_a_network_that_stands_still_in_the_middle_of_a_write_fails_it_naming_the_option(
    spark: SparkSession, site: Site, option: str
) -> None:
    with Proxy(int(site.pubsub.rpartition(":")[2])) as proxy:
        direct, site.pubsub = site.pubsub, f"127.0.0.1:{proxy.port}"
        daemon = site.serve()
        site.pubsub = direct
        proxy.stall(after_bytes=HALF_A_WRITE_BYTES)
        with pytest.raises(PySparkException, match=rf"PUBLISH_FAILED.*{option}, 1 s"):
            written(spark, daemon.endpoint, **{option: "1s"})
        assert 0 < published(site) < ROWS
        proxy.flow()
