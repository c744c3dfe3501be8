"""The plain Python consumer: the same protocol without Spark."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from tests.client.daemon import SUBSCRIPTION, Daemon

import penstock
from penstock.contract import ROWS_SCHEMA
from penstock.errors import BatchGone, InvalidOption, InvalidRequest, NodeUnreachable, ReaderFenced


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon() as daemon:
        yield daemon


def opened(daemon: Daemon, **options: object) -> penstock.Consumer:
    consumer = penstock.Consumer(SUBSCRIPTION, endpoint=daemon.endpoint, **options)  # type: ignore[arg-type]
    assert consumer.next(0) is None
    return consumer


def test_batches_come_as_tables_and_rows_and_are_acknowledged_on_commit(daemon: Daemon) -> None:
    with opened(daemon) as consumer:
        sent = daemon.publish(10)
        batch = next(iter(consumer))
        assert len(batch) == 10
        table = batch.to_table()
        assert table.schema == ROWS_SCHEMA
        assert table["message_id"].to_pylist() == sent
        assert [row["attributes"] for row in batch.rows()][:2] == [{"n": "0"}, {"n": "1"}]
        assert not daemon.acknowledged()
        batch.commit()
        assert daemon.acknowledged() == sent


def test_a_batch_that_is_ready_wakes_a_waiting_consumer(daemon: Daemon) -> None:
    with opened(daemon) as consumer:
        threading.Timer(0.3, daemon.publish, [5]).start()
        batch = consumer.next(20)
        assert batch is not None
        assert len(batch) == 5


def test_what_was_not_committed_goes_back_when_the_consumer_closes(daemon: Daemon) -> None:
    with opened(daemon) as consumer:
        sent = daemon.publish(10)
        assert consumer.next(5) is not None
    assert sorted(daemon.service.released) == sorted(f"ack-{message}" for message in sent)
    assert not daemon.acknowledged()


def test_a_batch_of_a_closed_consumer_says_so_at_once(daemon: Daemon) -> None:
    with opened(daemon) as consumer:
        daemon.publish(3)
        batch = consumer.next(10)
        assert batch is not None
    for late in (batch.commit, batch.to_table):
        with pytest.raises(InvalidRequest, match="the consumer is closed"):
            late()


def test_a_row_limit_cuts_batches(daemon: Daemon) -> None:
    with opened(daemon, max_rows=4) as consumer:
        sent, got = daemon.publish(10), []
        for batch in consumer:
            got += batch.to_table()["message_id"].to_pylist()
            batch.commit()
            if len(got) == len(sent):
                break
        assert got == sent
        assert daemon.acknowledged() == sent


def test_one_batch_may_have_a_row_limit_of_its_own(daemon: Daemon) -> None:
    with opened(daemon, max_rows=10) as consumer:
        daemon.publish(30)
        cut = consumer.next(10, max_rows=3)
        assert cut is not None
        assert len(cut) == 3
        whole = consumer.next(10)
        assert whole is not None
        assert len(whole) == 10
        with pytest.raises(InvalidOption, match="max_rows=0"):
            consumer.next(0, max_rows=0)


def test_columns_are_chosen(daemon: Daemon) -> None:
    with opened(daemon, columns=["data", "message_id"]) as consumer:
        daemon.publish(2)
        batch = consumer.next(5)
        assert batch is not None
        assert batch.to_table().schema.names == ["data", "message_id"]


def test_a_named_consumer_goes_on_after_a_crash_and_fences_the_process_before(daemon: Daemon) -> None:
    before = opened(daemon, name="mail", max_rows=5)
    sent = daemon.publish(10)
    first, second = before.next(5), before.next(5)
    assert first is not None
    assert second is not None
    first.commit()
    after = penstock.Consumer(SUBSCRIPTION, endpoint=daemon.endpoint, name="mail")
    again = after.next(5)
    assert again is not None
    assert (again.epoch, again.to_table()["message_id"].to_pylist()) == (2, sent[5:])
    with pytest.raises(ReaderFenced):
        second.commit()
    again.commit()
    assert daemon.acknowledged() == sent
    before.close()
    after.close()


def test_a_batch_that_is_gone_is_an_error_and_never_empty(daemon: Daemon) -> None:
    with opened(daemon) as consumer:
        daemon.publish(3)
        batch = consumer.next(5)
        assert batch is not None
        daemon.stop()
        daemon.start()
        with pytest.raises(BatchGone, match="come again"):
            batch.to_table()


def test_a_daemon_that_is_not_running_is_named() -> None:
    with (
        penstock.Consumer(SUBSCRIPTION, endpoint="127.0.0.1:9", node_wait_s=0.2) as consumer,
        pytest.raises(NodeUnreachable, match=r"127\.0\.0\.1:9"),
    ):
        consumer.next(1)


def test_wrong_arguments_are_refused_at_once() -> None:
    with pytest.raises(InvalidOption, match="max_rows=0"):
        penstock.Consumer(SUBSCRIPTION, max_rows=0)
    with pytest.raises(InvalidRequest, match="projects/PROJECT/subscriptions/ID"):
        penstock.Consumer("orders")
    with pytest.raises(InvalidRequest, match="columns"):
        penstock.Consumer(SUBSCRIPTION, columns=["nothing"])


def test_the_client_loads_neither_grpc_nor_google_nor_spark() -> None:
    code = (
        "import sys, penstock; penstock.Consumer; "
        "print([m for m in sys.modules if m.split('.')[0] in ('grpc', 'google', 'pyspark', 'pydantic', 'numpy')])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert [name for name in loaded.strip("[]\n").split(", ") if name and "numpy" not in name] == []
