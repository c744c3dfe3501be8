"""What Pub/Sub delivers twice, and what a stopped daemon held: read once from this node, and nothing is left over."""

from __future__ import annotations

import signal
import time
from collections import Counter
from typing import Any

import pytest
from google.pubsub_v1 import SubscriberClient, Subscription
from tests.service.conftest import NAME, TOPIC, Daemon, Site, until

from penstock.client import Consumer

OTHER = "projects/p/subscriptions/exactly-once"
PAUSE_S = 20.0
"""Twice the ack deadline that is asked for here."""


def accounted(daemon: Daemon, name: str = NAME) -> dict[str, Any]:
    """The daemon's figures, which must add up."""
    figures = daemon.figures(name)
    places = ("buffered", "in_batches", "acknowledged", "acks_lost", "released", "lapsed", "known", "renewed")
    assert figures["received"] == sum(figures[place] for place in places), figures
    return figures


def read(consumer: Consumer, messages: int, got: Counter[bytes]) -> None:
    """Read and commit until so many different ones were read, and until nothing more comes."""
    while (batch := consumer.next(20.0 if len(got) < messages else 1.0)) is not None:
        got.update(batch.to_table().column("data").to_pylist())
        batch.commit()


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a daemon started here reads."""
    monkeypatch.setenv("PENSTOCK_PUBSUB__ACK_DEADLINE_S", "10")


def create_exactly_once() -> None:
    wanted = Subscription(name=OTHER, topic=TOPIC, ack_deadline_seconds=10, enable_exactly_once_delivery=True)
    SubscriberClient().create_subscription(wanted)


@pytest.mark.parametrize("exactly_once", [False, True])
def test_what_is_delivered_again_while_it_is_held_is_read_once_and_acknowledged(
    site: Site, *, exactly_once: bool
) -> None:
    name = OTHER if exactly_once else NAME
    if exactly_once:
        create_exactly_once()
    daemon = site.serve()
    site.publish(3000)
    got: Counter[bytes] = Counter()
    with Consumer(name, endpoint=daemon.endpoint, max_rows=1000) as consumer:
        first = next(iter(consumer))
        got.update(first.to_table().column("data").to_pylist())
        until(lambda: daemon.figures(name)["received"] == 3000)
        assert site.faults.redeliver(name, 3000) == 3000
        until(lambda: accounted(daemon, name)["renewed"] == 3000)
        assert first.to_table().num_rows == len(first)
        first.commit()
        read(consumer, 3000, got)
        until(lambda: site.faults.statistics(name)["remaining"] == 0)
        figures = accounted(daemon, name)
    assert set(got.values()) == {1}
    assert len(got) == 3000
    assert (figures["received"], figures["acknowledged"], figures["acks_lost"]) == (6000, 3000, 0)


@pytest.mark.long
def test_a_stopped_daemon_notices_and_serves_what_lapsed_meanwhile_once(site: Site) -> None:
    daemon = site.serve()
    site.publish(3000)
    got: Counter[bytes] = Counter()
    with Consumer(NAME, endpoint=daemon.endpoint, max_rows=1000, node_wait_s=60) as consumer:
        first = next(iter(consumer))
        got.update(first.to_table().column("data").to_pylist())
        until(lambda: daemon.figures()["received"] == 3000)
        daemon.process.send_signal(signal.SIGSTOP)
        time.sleep(PAUSE_S)  # the fault itself
        daemon.process.send_signal(signal.SIGCONT)
        until(lambda: daemon.figures().get("lapsed"))
        first.commit()
        read(consumer, 3000, got)
        until(lambda: site.statistics()["remaining"] == 0)
        figures = accounted(daemon)
    assert figures["lapsed"] >= 3000 - len(first), "all that was not sealed, and what came again meanwhile"
    assert len(got) == 3000
    assert set(got.values()) == {1}
    assert "penstock_pauses_total 1.0" in daemon.http("/metrics")[1]
    assert "stood still" in daemon.log().lower()


def test_what_a_stopped_daemon_had_not_read_yet_is_left_to_the_one_that_got_it_meanwhile(site: Site) -> None:
    create_exactly_once()
    stopped, other = site.serve(), site.serve()
    got: Counter[bytes] = Counter()
    with (
        Consumer(OTHER, endpoint=stopped.endpoint, node_wait_s=60) as one,
        Consumer(OTHER, endpoint=other.endpoint) as two,
    ):
        assert one.next(0.1) is None
        assert two.next(0.1) is None
        until(lambda: site.faults.statistics(OTHER)["streams"] == 2)
        stopped.process.send_signal(signal.SIGSTOP)
        for _ in range(10):
            site.publish(100)
        until(lambda: site.faults.statistics(OTHER)["expired"], 30)
        read(two, 0, got)  # also some of those that went to the one that stands still
        stopped.process.send_signal(signal.SIGCONT)
        until(lambda: stopped.figures(OTHER)["received"])
        while site.faults.statistics(OTHER)["remaining"]:
            read(one, 0, got)
            read(two, 0, got)
        accounted(stopped, OTHER)
        accounted(other, OTHER)
    assert set(got.values()) == {10}, "each payload was published so often"
