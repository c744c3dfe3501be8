"""The plain Python consumer: batches in order, acknowledged by their commit and by nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

import penstock
from penstock.errors import (
    BatchGone,
    InvalidOption,
    InvalidRequest,
    NodeUnreachable,
    ReaderFenced,
    SubscriptionShared,
)
from tests.client.daemon import SUBSCRIPTION, Daemon

WAIT_S = 10.0


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon() as daemon:
        yield daemon


def until(true: Callable[[], bool]) -> None:
    """Wait for a condition."""
    end_s = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end_s, "the condition did not come true in time"
        time.sleep(0.01)


def taken(consumer: penstock.Consumer) -> penstock.client.Batch:
    batch = consumer.next(WAIT_S)
    assert batch is not None
    return batch


def ids(batch: penstock.client.Batch) -> list[str]:
    return [str(row["message_id"]) for row in batch.rows()]


def test_a_batch_can_be_read_as_a_table_and_row_by_row(daemon: Daemon) -> None:
    with penstock.Consumer(SUBSCRIPTION, endpoint=daemon.endpoint) as consumer:
        assert consumer.next(0) is None
        sent = daemon.publish(3)
        batch = taken(consumer)
        assert len(batch) == 3
        assert batch.to_table().schema == consumer.schema
        assert batch.to_table()["message_id"].to_pylist() == sent
        assert [row["attributes"] for row in batch.rows()] == [{"n": "0"}, {"n": "1"}, {"n": "2"}]


def test_only_a_commit_acknowledges_and_only_its_batch(daemon: Daemon) -> None:
    with penstock.Consumer(SUBSCRIPTION, endpoint=daemon.endpoint, max_rows=2) as consumer:
        assert consumer.next(0) is None
        sent = daemon.publish(4)
        first, second = taken(consumer), taken(consumer)
        assert ids(first) + ids(second) == sent
        assert not daemon.acknowledged()
        first.commit()
        until(lambda: daemon.acknowledged() == sent[:2])
        second.commit()
        until(lambda: daemon.acknowledged() == sent)


def test_what_was_not_committed_goes_back_when_the_consumer_closes(daemon: Daemon) -> None:
    with penstock.Consumer(SUBSCRIPTION, endpoint=daemon.endpoint) as consumer:
        assert consumer.next(0) is None
        daemon.publish(2)
        taken(consumer)
    assert not daemon.acknowledged()
    assert sorted(daemon.service.released) == ["ack-m0", "ack-m1"]


def test_a_named_consumer_gets_again_what_the_process_before_it_did_not_commit(daemon: Daemon) -> None:
    before = penstock.Consumer(SUBSCRIPTION, endpoint=daemon.endpoint, name="billing", max_rows=2)
    assert before.next(0) is None
    sent = daemon.publish(6)
    taken(before).commit()
    lost = taken(before)
    after = penstock.Consumer(SUBSCRIPTION, endpoint=daemon.endpoint, name="billing", max_rows=2)
    assert ids(taken(after)) == sent[2:4]
    with pytest.raises(ReaderFenced):
        lost.commit()
    assert ids(taken(after)) == sent[4:]
    after.close()


def test_an_unnamed_consumer_waits_for_the_one_that_reads(daemon: Daemon) -> None:
    with penstock.Consumer(SUBSCRIPTION, endpoint=daemon.endpoint) as first:
        assert first.next(0) is None
        with (
            penstock.Consumer(SUBSCRIPTION, endpoint=daemon.endpoint, node_wait_s=0.2) as second,
            pytest.raises(SubscriptionShared, match=first.name),
        ):
            second.next(0)


def test_iteration_wakes_for_rows_and_ends_when_the_consumer_is_closed(daemon: Daemon) -> None:
    consumer = penstock.Consumer(SUBSCRIPTION, endpoint=daemon.endpoint)
    got: list[str] = []

    def consume() -> None:
        for batch in consumer:
            got.extend(ids(batch))
            batch.commit()
            consumer.close()

    thread = threading.Thread(target=consume, daemon=True)
    thread.start()
    until(lambda: "backlog" in daemon.calls)
    sent = daemon.publish(5)
    thread.join(WAIT_S)
    assert not thread.is_alive()
    assert got == sent


def test_columns_are_chosen_where_the_rows_are(daemon: Daemon) -> None:
    with penstock.Consumer(SUBSCRIPTION, endpoint=daemon.endpoint, columns=("data", "message_id")) as consumer:
        assert consumer.next(0) is None
        daemon.publish(1)
        assert list(taken(consumer).rows()) == [{"data": b"x" * 20, "message_id": "m0"}]


def test_a_batch_lost_with_its_daemon_is_an_error_and_the_next_one_comes(daemon: Daemon) -> None:
    with penstock.Consumer(SUBSCRIPTION, endpoint=daemon.endpoint) as consumer:
        assert consumer.next(0) is None
        daemon.publish(2)
        lost = taken(consumer)
        daemon.stop()
        daemon.start()
        with pytest.raises(BatchGone, match="come again"):
            lost.to_table()
        sent = daemon.publish(2)
        assert ids(taken(consumer)) == sent


def test_a_batch_is_gone_once_it_was_acknowledged(daemon: Daemon) -> None:
    with penstock.Consumer(SUBSCRIPTION, endpoint=daemon.endpoint) as consumer:
        assert consumer.next(0) is None
        daemon.publish(2)
        batch = taken(consumer)
        batch.commit()
        with pytest.raises(BatchGone):
            batch.to_table()


def test_a_daemon_that_is_not_running_is_named() -> None:
    with (
        penstock.Consumer(SUBSCRIPTION, endpoint="127.0.0.1:9", node_wait_s=0.2) as consumer,
        pytest.raises(NodeUnreachable, match="127.0.0.1:9: start one"),
    ):
        consumer.next(0)


def test_the_endpoint_comes_from_the_environment_when_it_is_not_given(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_ENDPOINT", daemon.endpoint)
    with penstock.Consumer("orders", project_id="p") as consumer:
        assert consumer.next(0) is None
    assert "open" in daemon.calls


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InvalidOption, match="max_rows=0"):
        penstock.Consumer(SUBSCRIPTION, max_rows=0)
    with pytest.raises(InvalidRequest, match="projects/PROJECT/subscriptions/ID"):
        penstock.Consumer("orders")
    with pytest.raises(InvalidRequest, match="choose each at most once"):
        penstock.Consumer(SUBSCRIPTION, columns=("nothing",))
