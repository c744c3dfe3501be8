"""A driver that takes over from one that died, or whose node was another for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.client.daemon import SUBSCRIPTION, Daemon

from penstock.client import Driver, Limits, NodeClient, Offset, ReaderSettings
from penstock.contract.body import Request

START = Offset.initial("consumer-1", SUBSCRIPTION)
ANY = Limits()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon() as daemon:
        yield daemon


class Address:
    """Satisfies `client.Node`: leads to one daemon, and later to another."""

    endpoint = "penstock:8815"

    def __init__(self, daemon: Daemon) -> None:
        self.lead(daemon)

    def lead(self, daemon: Daemon) -> None:
        self._client = NodeClient(daemon.endpoint)

    def call(self, action: str, request: Request) -> Any:
        return self._client.call(action, request)

    def close(self) -> None:
        self._client.close()


def driver(to: Daemon | Address, **time: Callable[..., Any]) -> Driver:
    settings = ReaderSettings(subscription=SUBSCRIPTION, node_wait_s=10.0)
    return Driver("consumer-1", settings, [to if isinstance(to, Address) else NodeClient(to.endpoint)], **time)


def sealed_by_a_driver_that_died(daemon: Daemon) -> Offset:
    before = driver(daemon)
    before.latest(START, ANY)
    daemon.publish(5)
    end = before.latest(START, ANY)
    assert end is not None
    return end


def test_a_batch_sealed_before_is_taken_though_the_backlog_is_below_the_minimum(daemon: Daemon) -> None:
    end = sealed_by_a_driver_that_died(daemon)
    after = driver(daemon)
    few = Limits(min_rows=1000, max_delay_s=3600)
    assert after.latest(START, few) == end
    assert after.latest(end, few) is None


def test_a_batch_sealed_before_is_taken_by_a_query_that_takes_what_is_there(daemon: Daemon) -> None:
    end = sealed_by_a_driver_that_died(daemon)
    daemon.streams_open_since = 0.0
    after = driver(daemon)
    after.take_what_is_there(0.1)
    assert after.latest(START, ANY) == end
    assert after.latest(end, ANY) is None
    assert after.ended
    assert len(daemon.acknowledged()) == 5


def test_what_another_daemon_does_not_have_is_waited_for_and_planned_when_its_own_is_back(daemon: Daemon) -> None:
    end = sealed_by_a_driver_that_died(daemon)
    pauses: list[float] = []
    with Daemon(site="elsewhere") as other:
        address = Address(other)

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 3:
                address.lead(daemon)

        assert sum(part.rows for part in driver(address, sleep=sleep).plan(START, end, 1)) == 5
    assert len(pauses) >= 3


def test_what_another_daemon_does_not_have_is_left_out_once_its_own_must_have_released_it(daemon: Daemon) -> None:
    end = sealed_by_a_driver_that_died(daemon)
    with Daemon(site="elsewhere") as other:
        passed = [0.0]

        def sleep(seconds: float) -> None:
            passed[0] += seconds

        after = driver(other, sleep=sleep, clock=lambda: passed[0])
        assert after.plan(START, end, 1) == []
        assert passed[0] >= 330
        assert after.gone_batches == 1


def test_a_batch_that_a_plan_left_out_is_given_back_and_never_acknowledged(daemon: Daemon) -> None:
    address = Address(daemon)
    one = driver(address)
    one.latest(START, ANY)
    daemon.publish(5)
    end = one.latest(START, ANY)
    assert end is not None
    # The address leads to another node while Spark plans, and back to the first one for the commit.
    with Daemon() as other:
        address.lead(other)
        assert one.plan(START, end, 2) == []
        address.lead(daemon)
        assert one.latest(end, ANY) is None
    assert not daemon.acknowledged()
    assert len(daemon.service.released) == 5


def known_to(one: Driver, address: Address, *daemons: Daemon) -> None:
    """Let the driver's one address lead to these daemons, one after the other."""
    for each in daemons:
        address.lead(each)
        assert one.latest(START, ANY) is None


def test_a_batch_is_named_after_the_daemon_that_sealed_it_when_the_address_leads_back_to_one_known(
    daemon: Daemon,
) -> None:
    address = Address(daemon)
    one = driver(address)
    with Daemon(site="elsewhere") as other:
        known_to(one, address, daemon, other, daemon)
        daemon.publish(5)
        end = one.latest(START, ANY)
        assert end is not None
        assert list(end.nodes) == [daemon.reservoir.node]
        assert one.latest(end, ANY) is None
    assert len(daemon.acknowledged()) == 5


def test_a_daemon_that_knows_the_reader_does_not_answer_for_the_one_that_has_the_batch(daemon: Daemon) -> None:
    address = Address(daemon)
    one = driver(address, sleep=lambda _seconds: address.lead(daemon))
    with Daemon(site="elsewhere") as other:
        known_to(one, address, other, daemon)
        daemon.publish(5)
        end = one.latest(START, ANY)
        assert end is not None
        address.lead(other)
        assert sum(part.rows for part in one.plan(START, end, 1)) == 5
    assert one.gone_batches == 0
