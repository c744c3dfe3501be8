"""Daemons, writers and networks that die in the middle of a write: success is never said of a row that is not there."""

from __future__ import annotations

import contextlib
import functools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa
import pytest
from pyspark.sql.types import BinaryType, StructField, StructType
from tests.chaos.proxy import Proxy
from tests.service.conftest import NAME, TOPIC, Daemon, Site, until

from penstock import Publisher
from penstock.contract.publishing import PutReply
from penstock.errors import Draining, NodeUnreachable, PenstockError, PublishFailed
from pyspark_pubsub.writer import PubSubWriter, plan_write

BATCH = pa.RecordBatch.from_pydict({"data": [b"x" * 1000] * 1000})


class Writing:
    """A write in a thread: `BATCH` again and again until `stop`."""

    def __init__(self, endpoint: str, **options: float) -> None:
        self.given = 0
        self.stop = threading.Event()
        self.outcome: Future[PutReply] = Future()
        self._publisher = Publisher(TOPIC, endpoint=endpoint, **options)  # type: ignore[arg-type]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.outcome.set_result(self._publisher.publish(self._batches()))
        except BaseException as error:  # noqa: BLE001 - the outcome is what the test asks for
            self.outcome.set_exception(error)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        while not self.stop.wait(0.002):
            self.given += len(BATCH)
            yield BATCH


def _more_than(site: Site, count: int) -> bool:
    return published(site) > count


def published(site: Site) -> int:
    count: int = site.statistics()["published"]
    return count


def test_a_daemon_that_is_killed_fails_the_write(site: Site) -> None:
    daemon = site.serve()
    writing = Writing(daemon.endpoint)
    until(lambda: published(site) > 5000)
    daemon.end(signal.SIGKILL)
    with pytest.raises(NodeUnreachable, match=r"broke off do_put|no penstock daemon answers"):
        writing.outcome.result(30)


def test_a_daemon_that_is_told_to_stop_finishes_its_writes_and_takes_no_new_ones(site: Site) -> None:
    daemon = site.serve()
    writing = Writing(daemon.endpoint)
    until(lambda: published(site) > 2000)
    daemon.process.send_signal(signal.SIGTERM)
    until(lambda: "draining" in daemon.log())
    with pytest.raises(PenstockError, match="shutting down"), Publisher(TOPIC, endpoint=daemon.endpoint) as other:
        other.publish(BATCH)
    writing.stop.set()
    reply = writing.outcome.result(30)
    assert reply.messages == writing.given == published(site)
    assert daemon.process.wait(30) == 0


def test_a_task_waits_for_a_daemon_that_is_told_to_stop_and_writes_to_the_next_one(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = site.serve()
    writing = Writing(daemon.endpoint)
    until(lambda: published(site) > 2000)
    daemon.process.send_signal(signal.SIGTERM)
    until(lambda: "draining" in daemon.log())
    plan = plan_write(
        {"topicId": TOPIC, "daemons": daemon.endpoint},
        StructType([StructField("data", BinaryType())]),
        overwrite=False,
        streaming=False,
    )
    with ThreadPoolExecutor(1) as pool:
        task = pool.submit(PubSubWriter(plan).write, iter([BATCH]))
        until(lambda: "takes no new writes" in caplog.text)
        writing.stop.set()
        assert writing.outcome.result(30).messages == writing.given
        assert daemon.process.wait(30) == 0
        site.serve(port=daemon.port)
        assert task.result(60).messages == len(BATCH)


def test_a_write_that_outlives_the_drain_gets_an_error(site: Site) -> None:
    daemon = site.serve("--drain-timeout-s", "0.5")
    writing = Writing(daemon.endpoint)
    until(lambda: published(site) > 2000)
    daemon.process.send_signal(signal.SIGTERM)
    with pytest.raises(Draining, match=r"shut down before the write was done.*rows taken [\d,]+ were confirmed"):
        writing.outcome.result(30)
    assert daemon.process.wait(30) == 0


def test_a_writer_that_is_killed_leaves_nothing_behind(site: Site) -> None:
    daemon = site.serve()
    code = (
        "import itertools, pyarrow as pa, penstock\n"
        "batch = pa.RecordBatch.from_pydict({'data': [b'x' * 1000] * 1000})\n"
        f"penstock.Publisher({TOPIC!r}, endpoint={daemon.endpoint!r}).publish(itertools.repeat(batch))\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code])
    try:
        until(lambda: published(site) > 5000)
    finally:
        writer.kill()
        writer.wait()
    until(lambda: "penstock_publish_writes 0.0" in daemon.http("/metrics")[1])
    count = published(site)
    with Publisher(TOPIC, endpoint=daemon.endpoint) as publisher:
        assert publisher.publish(BATCH).messages == 1000
    assert published(site) == count + 1000


def test_a_network_that_stands_still_ends_in_an_error_when_the_time_is_up(site: Site) -> None:
    with Proxy(int(site.pubsub.rpartition(":")[2])) as proxy:
        daemon = _behind(site, proxy)
        writing = Writing(daemon.endpoint, flush_timeout_s=2.0, retry_timeout_s=2.0)
        until(lambda: published(site) > 2000)
        proxy.stall()
        time.sleep(0.2)  # some rows meet the stall
        writing.stop.set()
        began = time.monotonic()
        with pytest.raises(PublishFailed, match=r"not confirmed within flushTimeout|tried for retryTimeout"):
            writing.outcome.result(30)
        assert time.monotonic() - began < 20
        proxy.flow()


def test_a_network_that_is_cut_and_comes_back_costs_no_row(site: Site) -> None:
    with Proxy(int(site.pubsub.rpartition(":")[2])) as proxy:
        daemon = _behind(site, proxy)
        writing = Writing(daemon.endpoint)
        for _ in range(3):
            before = published(site)
            until(functools.partial(_more_than, site, before + 2000))
            proxy.cut()
        writing.stop.set()
        reply = writing.outcome.result(60)
        assert reply.messages == writing.given
        assert published(site) >= writing.given, "some came twice, none is missing"


def test_a_quota_that_is_used_up_for_a_while_is_waited_for(site: Site) -> None:
    daemon = site.serve()
    site.faults.fail("Publish", "RESOURCE_EXHAUSTED", 1_000_000)
    writing = Writing(daemon.endpoint)
    until(lambda: 'penstock_topic_breaker_open{topic="projects/p/topics/orders"} 1.0' in daemon.http("/metrics")[1], 30)
    site.faults.clear()
    writing.stop.set()
    reply = writing.outcome.result(60)
    assert reply.messages == writing.given == published(site)


def _behind(site: Site, proxy: Proxy) -> Daemon:
    direct = site.pubsub
    site.pubsub = f"127.0.0.1:{proxy.port}"
    try:
        return site.serve()
    finally:
        site.pubsub = direct


def test_metrics_tell_what_was_published(site: Site) -> None:
    daemon = site.serve()
    site.faults.fail("Publish", "UNAVAILABLE", 1)
    with Publisher(TOPIC, endpoint=daemon.endpoint) as publisher:
        assert publisher.publish(BATCH).messages == 1000
        with contextlib.suppress(PublishFailed):
            site.faults.fail("Publish", "PERMISSION_DENIED", 1)
            publisher.publish(BATCH)
    said = daemon.http("/metrics")[1]
    for line in (
        f'penstock_published_messages_total{{topic="{TOPIC}"}} 1000.0',
        f'penstock_publish_requests_total{{topic="{TOPIC}"}} 1.0',
        f'penstock_publish_retries_total{{code="UNAVAILABLE",topic="{TOPIC}"}} 1.0',
        f'penstock_publish_failures_total{{code="PERMISSION_DENIED",topic="{TOPIC}"}} 1000.0',
        f'penstock_publish_seconds_bucket{{le="+Inf",topic="{TOPIC}"}} 1.0',
        f'penstock_publish_seconds_count{{topic="{TOPIC}"}} 1.0',
        f'penstock_publish_in_flight_requests{{topic="{TOPIC}"}} 0.0',
    ):
        assert line in said, line
    assert f'penstock_published_bytes_total{{topic="{TOPIC}"}}' in said
    assert NAME not in said
