"""Whole queries: what Spark reads, in which shapes, and what it acknowledges."""

from __future__ import annotations

import datetime as dt
import functools
import json
import threading
import time
from pathlib import Path

import pytest
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f
from tests.client.daemon import START_US, SUBSCRIPTION, Daemon
from tests.spark.running import Sink, log, opened, reading, running, until

from penstock.client import Driver, Limits, NodeClient, Offset, ReaderSettings
from penstock.contract import COLUMNS
from penstock.errors import SubscriptionFailed


def test_messages_are_read_with_all_columns_and_acknowledged(
    spark: SparkSession, daemon: Daemon, checkpoint: str
) -> None:
    rows: list[dict[str, object]] = []
    df = reading(spark, daemon, numPartitions="3")
    assert df.columns == list(COLUMNS)
    with running(df, checkpoint, lambda batch, _: rows.extend(row.asDict() for row in batch.collect())) as query:
        opened(daemon, query)
        sent = daemon.publish(10)
        until(lambda: len(daemon.acknowledged()) == 10, query)
    assert [row["message_id"] for row in rows] == sent == daemon.acknowledged()
    assert (rows[0]["data"], rows[0]["attributes"], rows[0]["ordering_key"]) == (b"x" * 20, {"n": "0"}, None)
    published = rows[0]["publish_time"]
    assert isinstance(published, dt.datetime)
    assert published.timestamp() == START_US / 1e6


def test_the_first_batch_of_a_query_without_data_is_empty_and_rows_come_later(
    spark: SparkSession, daemon: Daemon, checkpoint: str
) -> None:
    sink = Sink()
    with running(reading(spark, daemon), checkpoint, sink) as query:
        until(lambda: 0 in log(checkpoint, "commits"), query)
        sent = daemon.publish(5)
        until(lambda: len(daemon.acknowledged()) == 5, query)
    assert sink.batches == {0: [], 1: sent}


def test_a_restart_reads_on_where_the_checkpoint_stands(spark: SparkSession, daemon: Daemon, checkpoint: str) -> None:
    first, second = Sink(), Sink()
    with running(reading(spark, daemon), checkpoint, first) as query:
        opened(daemon, query)
        sent = daemon.publish(5)
        until(lambda: first.rows() == sent and set(log(checkpoint, "commits")) == set(first.batches), query)
    with running(reading(spark, daemon), checkpoint, second) as query:
        until(lambda: daemon.acknowledged() == sent, query)
        more = daemon.publish(5)
        until(lambda: second.rows() == more, query)
    assert len({body["consumer"] for action, body in daemon.bodies if action == "open"}) == 1


def test_a_failed_batch_is_given_the_same_rows_after_a_restart(
    spark: SparkSession, daemon: Daemon, checkpoint: str
) -> None:
    seen: list[list[str]] = []

    def failing(batch: DataFrame, number: int) -> None:
        ids = [row.message_id for row in batch.select("message_id").collect()]
        if ids:
            seen.append(ids)
            if len(seen) == 1:
                raise ValueError("the sink is down")

    with running(reading(spark, daemon), checkpoint, failing) as query:
        opened(daemon, query)
        sent = daemon.publish(50)
        until(lambda: query.exception() is not None)
    daemon.publish(50)
    with running(reading(spark, daemon), checkpoint, failing) as query:
        until(lambda: len(daemon.acknowledged()) >= 50, query)
    assert seen[0] == seen[1] == sent


def test_a_stream_united_with_itself_has_every_row_twice(spark: SparkSession, daemon: Daemon, checkpoint: str) -> None:
    sink = Sink()
    df = reading(spark, daemon)
    with running(df.union(df), checkpoint, sink) as query:
        opened(daemon, query)
        sent = daemon.publish(6)
        until(lambda: len(daemon.acknowledged()) == 6, query)
    assert sorted(sink.rows()) == sorted(sent * 2)


def test_two_actions_in_one_batch_read_the_same_rows(spark: SparkSession, daemon: Daemon, checkpoint: str) -> None:
    counts: list[tuple[int, int]] = []

    def twice(batch: DataFrame, _: int) -> None:
        counts.append((batch.count(), len(batch.collect())))

    with running(reading(spark, daemon), checkpoint, twice) as query:
        opened(daemon, query)
        daemon.publish(100)
        until(lambda: len(daemon.acknowledged()) == 100, query)
    assert (100, 100) in counts


def test_a_task_that_fails_in_the_middle_of_a_slice_reads_it_again(
    spark: SparkSession, daemon: Daemon, checkpoint: str, tmp_path: Path
) -> None:
    marker, sink = str(tmp_path / "failed"), Sink()

    @f.udf("string", useArrow=False)  # said outright, or Spark infers it, in another way where pandas is installed
    def fails_once(message: str) -> str:
        if message == "m37" and not Path(marker).exists():
            Path(marker).touch()
            raise ValueError("bad luck")
        return message

    df = reading(spark, daemon, numPartitions="2").select(fails_once("message_id").alias("message_id"))
    with running(df, checkpoint, sink) as query:
        opened(daemon, query)
        sent = daemon.publish(50)
        until(lambda: len(daemon.acknowledged()) == 50, query)
    assert Path(marker).exists()
    assert sink.rows() == sent


def test_columns_are_projected_before_they_travel(spark: SparkSession, daemon: Daemon, checkpoint: str) -> None:
    kept: list[tuple[object, ...]] = []
    df = reading(spark, daemon, columns="ordering_key,message_id")
    assert df.columns == ["ordering_key", "message_id"]
    with running(df, checkpoint, lambda batch, _: kept.extend(tuple(row) for row in batch.collect())) as query:
        opened(daemon, query)
        sent = daemon.publish(3)
        until(lambda: len(daemon.acknowledged()) == 3, query)
    assert kept == [(None, message) for message in sent]


def test_limits_of_options_cut_batches(spark: SparkSession, daemon: Daemon, checkpoint: str) -> None:
    sink = Sink()
    with running(reading(spark, daemon, maxRecordsPerTrigger="4"), checkpoint, sink) as query:
        opened(daemon, query)
        sent = daemon.publish(10)
        until(lambda: len(daemon.acknowledged()) == 10, query)
    assert sink.rows() == sent
    assert max(len(ids) for ids in sink.batches.values()) == 4


def test_progress_carries_the_backlog(spark: SparkSession, daemon: Daemon, checkpoint: str) -> None:
    with running(reading(spark, daemon, maxRecordsPerTrigger="4"), checkpoint, Sink()) as query:
        opened(daemon, query)
        daemon.publish(10)
        until(lambda: len(daemon.acknowledged()) == 10, query)
        reports = [json.loads(p.json)["sources"][0]["latestOffset"] for p in query.recentProgress]
    assert {6, 2, 0} <= {report["backlog_rows"] for report in reports if report}
    assert reports[-1]["nodes_up"] == 1
    assert reports[-1]["batches_gone"] == 0


def test_available_now_takes_what_is_there_and_ends(spark: SparkSession, daemon: Daemon, checkpoint: str) -> None:
    daemon.streams_open_since = 0.0
    sink = Sink()
    df = reading(spark, daemon, availableNowIdle="1s", maxRecordsPerTrigger="6")
    with running(df, checkpoint, sink, availableNow=True) as query:
        until(lambda: "backlog" in daemon.calls, query)
        sent = daemon.publish(10)
        assert query.awaitTermination(60)
    assert sink.rows() == sent == daemon.acknowledged()


def test_available_now_ends_though_a_publisher_never_stops(
    spark: SparkSession, daemon: Daemon, checkpoint: str
) -> None:
    daemon.streams_open_since = 0.0
    daemon.offset_us = START_US + (1 << 50)  # published after any start
    stop = threading.Event()

    def publishing() -> None:
        while not stop.wait(0.05):
            daemon.publish(5)

    thread = threading.Thread(target=publishing)
    thread.start()
    try:
        df = reading(spark, daemon, availableNowIdle="1s")
        with running(df, checkpoint, Sink(), availableNow=True) as query:
            assert query.awaitTermination(60)
    finally:
        stop.set()
        thread.join()


STOPS = 5


def called(daemon: Daemon, action: str, times: int) -> bool:
    return daemon.calls.count(action) >= times


def acknowledged(daemon: Daemon, messages: int) -> bool:
    return len(daemon.acknowledged()) == messages


def heard(daemon: Daemon, action: str) -> bool:
    end = time.monotonic() + 3
    while action not in daemon.calls and time.monotonic() < end:
        time.sleep(0.02)
    return action in daemon.calls


def test_a_stopped_query_says_bye_so_that_another_may_start(
    spark: SparkSession, daemon: Daemon, tmp_path: Path
) -> None:
    """Mostly: Spark kills the reader milliseconds after telling it to stop. Otherwise three heartbeats must pass."""
    for stops in range(1, STOPS + 1):
        with running(reading(spark, daemon), str(tmp_path / "a"), Sink()) as query:
            until(functools.partial(called, daemon, "open", stops), query)
            opened(daemon, query)
            daemon.publish(5)
            until(functools.partial(acknowledged, daemon, 5 * stops), query)
        if heard(daemon, "bye"):
            break
    assert "bye" in daemon.calls
    sink, opens = Sink(), daemon.calls.count("open")
    with running(reading(spark, daemon), str(tmp_path / "b"), sink) as query:
        until(lambda: daemon.calls.count("open") > opens, query)
        sent = daemon.publish(5)
        until(lambda: sink.rows() == sent, query)


def _error_of(df: DataFrame, checkpoint: str, **trigger: object) -> str:
    with running(df, checkpoint, Sink(), **trigger) as query, pytest.raises(PySparkException) as caught:
        query.awaitTermination(60)
    return str(caught.value)


def test_two_queries_on_one_subscription_need_to_share_it(spark: SparkSession, daemon: Daemon, tmp_path: Path) -> None:
    with running(reading(spark, daemon), str(tmp_path / "a"), Sink()) as query:
        opened(daemon, query)
        words = _error_of(reading(spark, daemon, nodeWait="1s"), str(tmp_path / "b"))
    assert "SUBSCRIPTION_SHARED" in words
    assert "shareSubscription=true" in words


def test_the_older_of_two_queries_on_one_checkpoint_is_fenced(
    spark: SparkSession, daemon: Daemon, checkpoint: str, tmp_path: Path
) -> None:
    with running(reading(spark, daemon), checkpoint, Sink()) as query:
        until(lambda: 0 in log(checkpoint, "commits"), query)
        at = Offset.from_checkpoint(log(checkpoint, "offsets")[0], SUBSCRIPTION)
        newer = Driver(at.consumer, ReaderSettings(subscription=SUBSCRIPTION), [NodeClient(daemon.endpoint)])
        newer.latest(at, Limits())
        with pytest.raises(PySparkException, match="READER_FENCED"):
            query.awaitTermination(60)


def test_another_subscription_on_the_same_checkpoint_is_refused(
    spark: SparkSession, daemon: Daemon, checkpoint: str
) -> None:
    with running(reading(spark, daemon), checkpoint, Sink()) as query:
        until(lambda: 0 in log(checkpoint, "commits"), query)
    words = _error_of(reading(spark, daemon, subscriptionId="projects/p/subscriptions/other"), checkpoint)
    assert "SUBSCRIPTION_CHANGED" in words


def test_a_daemon_that_is_not_running_is_named_with_the_way_to_start_it(spark: SparkSession, checkpoint: str) -> None:
    df = (
        spark.readStream.format("pubsub")
        .options(subscriptionId=SUBSCRIPTION, daemons="127.0.0.1:9", nodeWait="300ms")
        .load()
    )
    words = _error_of(df, checkpoint)
    assert "NODE_UNREACHABLE" in words
    assert "penstock serve --listen grpc://127.0.0.1:9" in words


def test_an_error_of_the_service_ends_the_query_with_its_words(
    spark: SparkSession, daemon: Daemon, checkpoint: str
) -> None:
    daemon.fail_open.append(SubscriptionFailed("NOT_FOUND: no such subscription", service_code="NOT_FOUND"))
    assert "[SUBSCRIPTION_FAILED] NOT_FOUND: no such subscription" in _error_of(reading(spark, daemon), checkpoint)


def test_trigger_once_is_answered_with_the_trigger_to_use(spark: SparkSession, daemon: Daemon, checkpoint: str) -> None:
    assert "availableNow=True" in _error_of(reading(spark, daemon), checkpoint, once=True)


def test_wrong_options_are_answered_at_load(spark: SparkSession, daemon: Daemon) -> None:
    with pytest.raises(PySparkException, match="option numFetchPartitions is not taken here"):
        reading(spark, daemon, numFetchPartitions="3")
    with pytest.raises(PySparkException, match="option nodeWait='soon'"):
        reading(spark, daemon, nodeWait="soon")


def test_a_schema_that_differs_is_refused(spark: SparkSession, daemon: Daemon, checkpoint: str) -> None:
    wrong = (
        spark.readStream.format("pubsub")
        .schema("message_id string, body string")
        .options(subscriptionId=SUBSCRIPTION, daemons=daemon.endpoint)
    )
    with (
        pytest.raises(PySparkException, match="differs from what the source gives"),
        running(wrong.load(), checkpoint, Sink()) as query,
    ):
        query.awaitTermination(60)


def test_a_batch_read_is_answered_with_the_streaming_way(spark: SparkSession, daemon: Daemon) -> None:
    with pytest.raises(PySparkException, match="availableNow=True"):
        spark.read.format("pubsub").options(subscriptionId=SUBSCRIPTION, daemons=daemon.endpoint).load().collect()


def test_a_batch_longer_than_the_contact_time_out_keeps_its_rows(spark: SparkSession, checkpoint: str) -> None:
    seen: list[list[str]] = []
    with Daemon(consumer_timeout_s=1.5) as daemon:

        def slow(batch: DataFrame, _: int) -> None:
            seen.append([row.message_id for row in batch.collect()])
            if seen[-1]:
                last = daemon.calls.count("alive")
                until(lambda: daemon.calls.count("alive") >= last + 24)  # twice the time-out's worth of heartbeats

        with running(reading(spark, daemon), checkpoint, slow) as query:
            opened(daemon, query)
            sent = daemon.publish(20)
            until(lambda: daemon.acknowledged() == sent, query)
    assert [ids for ids in seen if ids] == [sent]


def test_a_batch_lost_with_its_daemon_costs_one_restart_of_the_query(
    spark: SparkSession, daemon: Daemon, checkpoint: str
) -> None:
    def lose(batch: DataFrame, _: int) -> None:
        if batch.count():
            daemon.stop()
            daemon.start()
            batch.count()

    with running(reading(spark, daemon), checkpoint, lose) as query:
        opened(daemon, query)
        daemon.publish(20)
        with pytest.raises(PySparkException, match="BATCH_GONE"):
            query.awaitTermination(60)
    sink = Sink()
    with running(reading(spark, daemon), checkpoint, sink) as query:
        until(lambda: daemon.calls.count("open") >= 2, query)
        again = daemon.publish(20)
        until(lambda: sink.rows() == again, query)
