"""A driver against a real Flight server and reservoir: what it reads, repeats, and commits."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from tests.client.daemon import SUBSCRIPTION, Daemon

from penstock.client import Driver, Limits, NodeClient, Offset, ReaderSettings
from penstock.errors import (
    InvalidRequest,
    NodeUnreachable,
    ReaderFenced,
    SubscriptionFailed,
    SubscriptionShared,
)

START = Offset.initial("consumer-1", SUBSCRIPTION)
ANY = Limits()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon() as daemon:
        yield daemon


def driver(daemon: Daemon, consumer: str = "consumer-1", wait_s: float = 5.0, *, share: bool = False) -> Driver:
    settings = ReaderSettings(subscription=SUBSCRIPTION, node_wait_s=wait_s, share=share)
    return Driver(consumer, settings, [NodeClient(daemon.endpoint)])


def read(daemon: Daemon, driver: Driver, start: Offset, end: Offset, slices: int = 3) -> list[str]:
    client = NodeClient(daemon.endpoint)
    planned = driver.plan(start, end, slices)
    return [m for part in planned for batch in client.read(part.ticket) for m in batch["message_id"].to_pylist()]


def sealed(driver: Driver, start: Offset, limits: Limits = ANY) -> Offset:
    end = driver.latest(start, limits)
    assert end is not None
    return end


def test_rows_are_read_and_acknowledged_once_their_epoch_is_finished(daemon: Daemon) -> None:
    one = driver(daemon)
    assert one.latest(START, ANY) is None
    sent = daemon.publish(100)
    end = sealed(one, START)
    assert (end.epoch, end.rows) == (1, 100)
    assert read(daemon, one, START, end) == sent
    assert not daemon.acknowledged()
    assert one.latest(end, ANY) is None
    assert daemon.acknowledged() == sent


def test_a_batch_is_planned_and_read_again_the_same_until_committed(daemon: Daemon) -> None:
    one = driver(daemon)
    one.latest(START, ANY)
    sent = daemon.publish(10)
    end = sealed(one, START)
    daemon.publish(10)
    assert read(daemon, one, START, end) == read(daemon, one, START, end, slices=7) == sent


def test_a_restarted_driver_seals_the_same_epoch_again(daemon: Daemon) -> None:
    one = driver(daemon)
    one.latest(START, ANY)
    sent = daemon.publish(10)
    end = sealed(one, START)
    daemon.publish(5)
    again = driver(daemon)
    assert sealed(again, START) == end
    assert read(daemon, again, START, end) == sent


def test_the_older_of_two_drivers_is_fenced_and_stays_so(daemon: Daemon) -> None:
    older = driver(daemon)
    older.latest(START, ANY)
    newer = driver(daemon)
    newer.latest(START, ANY)
    for _ in range(2):
        with pytest.raises(ReaderFenced, match="Two queries run on one checkpoint"):
            older.latest(START, ANY)
    calls = len(daemon.calls)
    older.beat()
    older.bye()
    assert len(daemon.calls) == calls


@pytest.mark.parametrize("lost", ["open", "seal", "plan", "commit"])
def test_a_lost_reply_is_asked_for_again_and_changes_nothing(daemon: Daemon, lost: str) -> None:
    one = driver(daemon)
    if lost != "open":
        one.latest(START, ANY)
    sent = daemon.publish(10) if lost != "open" else []
    daemon.lose_replies.append(lost)
    if lost == "open":
        one.latest(START, ANY)
        sent = daemon.publish(10)
    end = sealed(one, START)
    assert read(daemon, one, START, end) == sent
    assert one.latest(end, ANY) is None
    assert daemon.acknowledged() == sent
    assert not daemon.lose_replies


def test_a_commit_is_repeated_until_the_service_has_confirmed(daemon: Daemon) -> None:
    one = driver(daemon)
    one.latest(START, ANY)
    daemon.publish(10)
    daemon.service.hold = True
    end = sealed(one, START)
    one.latest(end, ANY)
    assert one.report()["epochs_pending"] == 1
    assert one.pending_commits() is None, "the node has heard of it"
    daemon.on_loop(daemon.service.confirm)
    one.latest(end, ANY)
    assert one.report()["epochs_pending"] == 0
    assert one.pending_commits() is None
    commits = daemon.calls.count("commit")
    one.latest(end, ANY)
    assert daemon.calls.count("commit") == commits


def test_a_batch_lost_with_its_daemon_is_left_out_and_counted(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    one = driver(daemon)
    one.latest(START, ANY)
    daemon.publish(10)
    end = sealed(one, START)
    daemon.stop()
    daemon.start()
    with caplog.at_level(logging.WARNING):
        assert one.plan(START, end, 2) == []
    assert one.report()["batches_gone"] == 1
    assert "come again" in caplog.text
    daemon.publish(3)
    after = sealed(one, end)
    assert (after.epoch, after.rows) == (2, 3)
    assert list(after.nodes) != list(end.nodes)


def test_a_daemon_that_is_not_running_is_named_with_the_way_to_start_it() -> None:
    settings = ReaderSettings(subscription=SUBSCRIPTION, node_wait_s=0.3)
    one = Driver("c", settings, [NodeClient("127.0.0.1:9")])
    with pytest.raises(
        NodeUnreachable, match=r"127.0.0.1:9: start one with `penstock serve --listen grpc://127.0.0.1:9"
    ):
        one.latest(START, ANY)


def test_a_second_consumer_waits_and_then_says_whom_for(daemon: Daemon) -> None:
    first = driver(daemon)
    first.latest(START, ANY)
    second = driver(daemon, "consumer-2", wait_s=0.3)
    with pytest.raises(SubscriptionShared, match=r"consumer-1.*shareSubscription.*waited \d+ s"):
        second.latest(START, ANY)
    first.bye()
    assert second.latest(START, ANY) is None


def test_two_consumers_share_a_subscription_when_both_say_so(daemon: Daemon) -> None:
    driver(daemon, share=True).latest(START, ANY)
    assert driver(daemon, "consumer-2", share=True).latest(START, ANY) is None


def test_an_error_of_the_service_ends_the_call_with_its_words(daemon: Daemon) -> None:
    settings = ReaderSettings(subscription="projects/p/subscriptions/none")
    with pytest.raises(SubscriptionFailed, match="NOT_FOUND") as caught:
        Driver("c", settings, [NodeClient(daemon.endpoint)]).latest(START, ANY)
    assert caught.value.details["service_code"] == "NOT_FOUND"
    assert caught.value.node == daemon.reservoir.node


def test_more_than_one_epoch_in_a_batch_names_async_progress_tracking(daemon: Daemon) -> None:
    far = Offset.initial("consumer-1", SUBSCRIPTION, 2)
    with pytest.raises(InvalidRequest, match="asyncProgressTrackingEnabled"):
        driver(daemon).plan(START, far, 2)


def test_equal_epochs_are_planned_without_a_call(daemon: Daemon) -> None:
    assert driver(daemon).plan(START, START, 2) == []
    assert not daemon.calls


def test_a_minimum_of_rows_is_waited_for_unless_the_oldest_is_late(daemon: Daemon) -> None:
    one = driver(daemon)
    few = Limits(min_rows=10, max_delay_s=3600)
    assert one.latest(START, few) is None
    daemon.publish(5)
    assert one.latest(START, few) is None
    assert "seal" not in daemon.calls
    end = sealed(one, START, Limits(min_rows=10, max_delay_s=0))
    assert end.rows == 5
    daemon.publish(10)
    assert sealed(one, end, few).rows == 10


def test_a_heartbeat_opens_again_after_a_restart(daemon: Daemon) -> None:
    one = driver(daemon)
    one.latest(START, ANY)
    daemon.stop()
    daemon.start()
    assert one.beat() <= 25.0
    assert daemon.calls[-1] == "open"


def test_a_heartbeat_to_nobody_raises_nothing(daemon: Daemon) -> None:
    one = driver(daemon)
    one.latest(START, ANY)
    daemon.stop()
    assert one.beat() <= 1.0
    assert one.report()["nodes_down"] == 1
    daemon.start()
    one.latest(START, ANY)
    assert one.report()["nodes_down"] == 0
