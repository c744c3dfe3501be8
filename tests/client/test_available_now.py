"""When a query that takes what there is ends."""

from __future__ import annotations

import datetime as dt

import pytest
from tests.client.daemon import START_US, SUBSCRIPTION, Daemon

from penstock.client import Driver, Limits, NodeClient, Offset, ReaderSettings
from penstock.client.available_now import AvailableNow, Verdict
from penstock.contract.actions import Backlog

STARTED = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
OLD, NEW = "2026-01-01T11:59:59.000000Z", "2026-01-01T12:00:01.000000Z"


def backlog(rows: int = 0, oldest: str | None = None, open_s: float | None = 100.0, *, paused: bool = False) -> Backlog:
    return Backlog(rows=rows, bytes=rows, oldest_publish_time=oldest, paused=paused, streams_open_s=open_s)


@pytest.fixture
def rule() -> AvailableNow:
    return AvailableNow(STARTED, idle_s=5.0)


def test_rows_from_before_the_start_are_taken(rule: AvailableNow) -> None:
    assert rule.judge(backlog(1, OLD), 0.0) is Verdict.TAKE


def test_silence_long_enough_ends_it(rule: AvailableNow) -> None:
    verdicts = [rule.judge(backlog(), float(second)) for second in range(6)]
    assert verdicts == [Verdict.WAIT] * 5 + [Verdict.END]


def test_rows_published_later_do_not_keep_it_running(rule: AvailableNow) -> None:
    verdicts = [rule.judge(backlog(second + 1, NEW), float(second)) for second in range(6)]
    assert verdicts[-1] is Verdict.END


def test_an_old_row_begins_the_silence_anew(rule: AvailableNow) -> None:
    for second in range(4):
        rule.judge(backlog(), float(second))
    assert rule.judge(backlog(1, OLD), 4.0) is Verdict.TAKE
    assert [rule.judge(backlog(), 5.0 + second) for second in range(5)] == [Verdict.WAIT] * 5
    assert rule.judge(backlog(), 10.0) is Verdict.END


def test_streams_that_are_not_open_are_no_silence(rule: AvailableNow) -> None:
    for second in range(20):
        assert rule.judge(backlog(open_s=None), float(second)) is Verdict.WAIT
    assert rule.judge(backlog(open_s=1.0), 20.0) is Verdict.WAIT
    assert rule.judge(backlog(open_s=4.0), 25.0) is Verdict.WAIT


def test_the_time_that_a_batch_takes_is_no_silence(rule: AvailableNow) -> None:
    assert rule.judge(backlog(1, OLD), 0.0) is Verdict.TAKE
    assert rule.judge(backlog(), 3600.0) is Verdict.WAIT


def test_newer_rows_that_stop_the_pulling_are_taken_out_of_the_way(rule: AvailableNow) -> None:
    assert rule.judge(backlog(5, NEW, paused=True), 0.0) is Verdict.TAKE


def test_a_driver_takes_all_that_was_there_and_ends_for_good() -> None:
    with Daemon() as daemon:
        daemon.streams_open_since = 0.0
        settings = ReaderSettings(subscription=SUBSCRIPTION, node_wait_s=5)
        driver = Driver("c", settings, [NodeClient(daemon.endpoint)])
        at = Offset.initial("c", SUBSCRIPTION)
        driver.latest(at, Limits())
        driver.take_what_is_there(0.2)
        sent = daemon.publish(10)
        while (end := driver.latest(at, Limits(max_rows=4))) is not None:
            at = end
        assert at.epoch == 3
        assert driver.ended
        assert daemon.acknowledged() == sent
        daemon.publish(1)
        assert driver.latest(at, Limits()) is None


def test_a_publisher_that_never_stops_cannot_keep_a_driver_running() -> None:
    with Daemon() as daemon:
        daemon.streams_open_since = 0.0
        settings = ReaderSettings(subscription=SUBSCRIPTION, node_wait_s=5)
        published = 0

        def sleep(_: float) -> None:
            nonlocal published
            daemon.offset_us = START_US + (1 << 50)  # far in the future
            published += len(daemon.publish(10))
            clock[0] += 0.05

        clock = [0.0]
        driver = Driver("c", settings, [NodeClient(daemon.endpoint)], sleep=sleep, clock=lambda: clock[0])
        driver.take_what_is_there(1.0)
        at = Offset.initial("c", SUBSCRIPTION)
        assert driver.latest(at, Limits()) is None
        assert published >= 100
