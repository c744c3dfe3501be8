"""Messages that come back again and again leave for the dead-letter topic, and no other message does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from google.pubsub_v1 import PublisherClient, PubsubMessage, SubscriberClient
from google.pubsub_v1.types import DeadLetterPolicy, Subscription
from tests.service.conftest import NAME, TOPIC, Daemon, Site, until

from penstock.client import NodeClient
from penstock.contract import PROTOCOL_VERSION, Reader
from penstock.contract.actions import (
    CloseRequest,
    CommitRequest,
    FinishedEpoch,
    OpenRequest,
    PlanRequest,
    ReleaseRequest,
    SealRequest,
)

LIMIT = 3
DEAD_TOPIC = "projects/p/topics/orders-dead"
DEAD_NAME = "projects/p/subscriptions/orders-dead"
COUNTED = "projects/p/subscriptions/counted"
COUNTED_TOPIC = "projects/p/topics/counted-dead"


def serve(site: Site) -> Daemon:
    return site.serve(
        *("--set", f"pubsub.max_delivery_attempts={LIMIT}", "--set", "pubsub.jitter_ms=0"),
        *("--set", "pubsub.dead_letter_topic=projects/{project}/topics/{subscription}-dead"),
    )


def dead_topic(topic: str = DEAD_TOPIC) -> None:
    PublisherClient().create_topic(name=topic)
    SubscriberClient().create_subscription(name=DEAD_NAME, topic=topic)


def dead_letters(count: int) -> list[PubsubMessage]:
    """What Google's client reads of the dead-letter topic."""
    found: dict[str, PubsubMessage] = {}
    client, end = SubscriberClient(), time.monotonic() + 20
    while len(found) < count and time.monotonic() < end:
        pulled = client.pull(subscription=DEAD_NAME, max_messages=100).received_messages
        found.update({one.message.message_id: one.message for one in pulled})
    return list(found.values())


class Reading:
    """A reader that commits what it likes and gives back what it does not."""

    def __init__(self, node: NodeClient, name: str) -> None:
        self._node, self._epoch = node, 0
        self._reader = Reader(int(time.time() * 1000), "r")
        self._id = self._call("open", OpenRequest, subscription=name, after=0).node

    def round(self, bad: bytes) -> list[bytes]:
        """One batch of one message: given back if it is the bad one."""
        batch = until(self._seal)
        (planned,) = self._call("plan", PlanRequest, epoch=self._epoch, batch=batch, slices=1).slices
        data: list[bytes] = [row for part in self._node.read(planned.ticket) for row in part.column("data").to_pylist()]
        if bad in data:
            self._call("release", ReleaseRequest, epoch=self._epoch, batch=batch)
        else:
            self._call("commit", CommitRequest, epochs=(FinishedEpoch(epoch=self._epoch, nodes={self._id: batch}),))
        return data

    def close(self) -> None:
        self._call("close", CloseRequest)

    def _seal(self) -> str | None:
        batch: str | None = self._call("seal", SealRequest, epoch=self._epoch + 1, after=self._epoch, max_rows=1).batch
        self._epoch += batch is not None
        return batch

    def _call(self, action: str, request: Callable[..., Any], **fields: object) -> Any:
        return self._node.call(action, request(v=PROTOCOL_VERSION, consumer="c", reader=self._reader, **fields))


def publish() -> None:
    rows = [PubsubMessage(data=data, attributes={"from": "test"}) for data in (b"good", b"bad", b"fine")]
    PublisherClient().publish(topic=TOPIC, messages=rows)


@pytest.mark.parametrize("counted_by_the_service", [True, False])
def test_a_message_that_is_given_back_too_often_goes_to_the_dead_letter_topic_once(
    site: Site, *, counted_by_the_service: bool
) -> None:
    name = COUNTED if counted_by_the_service else NAME
    dead_topic(COUNTED_TOPIC if counted_by_the_service else DEAD_TOPIC)
    if counted_by_the_service:
        policy = DeadLetterPolicy(dead_letter_topic=COUNTED_TOPIC, max_delivery_attempts=50)
        SubscriberClient().create_subscription(Subscription(name=COUNTED, topic=TOPIC, dead_letter_policy=policy))
    daemon = serve(site)
    publish()
    with NodeClient(daemon.endpoint) as node:
        reading = Reading(node, name)
        seen: list[bytes] = []
        while seen.count(b"bad") < LIMIT or set(seen) != {b"good", b"bad", b"fine"}:
            seen += reading.round(b"bad")
        until(lambda: daemon.figures(name)["dead_lettered"] == 1)
        until(lambda: site.faults.statistics(name)["remaining"] == 0)
        assert daemon.figures(name)["buffered"] == 0
        reading.close()
    assert seen.count(b"bad") == LIMIT
    (letter,) = dead_letters(1)
    assert letter.data == b"bad"
    attributes = dict(letter.attributes)
    assert attributes.pop("penstock_message_id")
    assert attributes == {
        "from": "test",
        "penstock_subscription": name,
        "penstock_delivery_attempt": str(LIMIT + 1),
        "penstock_reason": f"delivered more than {LIMIT} times",
    }
    accounting = daemon.figures(name)["accounting"]
    assert accounting["places"]["dead_lettered"] == 1
    assert accounting["places"]["acknowledged"] == 2
    assert accounting["unaccounted"] == 0


def test_a_topic_that_does_not_exist_is_told_and_the_message_is_kept_until_it_does(site: Site) -> None:
    daemon = serve(site)
    publish()
    with NodeClient(daemon.endpoint) as node:
        reading = Reading(node, NAME)
        seen: list[bytes] = []
        while seen.count(b"bad") < LIMIT or set(seen) != {b"good", b"bad", b"fine"}:
            seen += reading.round(b"bad")
        until(lambda: daemon.figures()["dead_letters_pending"] == 1)
        trouble = until(lambda: daemon.figures()["trouble"], 30)
        assert "dead letters cannot be published" in trouble
        assert "NOT_FOUND" in trouble
        assert DEAD_TOPIC in trouble
        assert "dead letters refused" in daemon.log()
        assert "penstock_publish_breaker_open" in daemon.http("/metrics")[1]
        assert site.statistics()["remaining"] == 1, "it is kept, not acknowledged"
        dead_topic()
        until(lambda: daemon.figures()["dead_lettered"] == 1, 30)
        until(lambda: site.statistics()["remaining"] == 0)
        assert daemon.figures()["trouble"] is None
        reading.close()
    assert [letter.data for letter in dead_letters(1)] == [b"bad"]


def test_a_daemon_that_stops_gives_back_what_is_not_confirmed(site: Site) -> None:
    daemon = serve(site)
    publish()
    with NodeClient(daemon.endpoint) as node:
        reading = Reading(node, NAME)
        seen: list[bytes] = []
        while seen.count(b"bad") < LIMIT or set(seen) != {b"good", b"bad", b"fine"}:
            seen += reading.round(b"bad")
        until(lambda: daemon.figures()["dead_letters_pending"] == 1)
        assert daemon.end() == 0
    statistics = site.statistics()
    assert statistics["remaining"] == 1
    assert statistics["nacked"] == LIMIT + 1
