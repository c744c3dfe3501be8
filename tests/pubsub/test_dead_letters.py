"""Dead letters are pending until the service has confirmed every one of them, whatever it says meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pyarrow as pa
import pytest
from google.pubsub_v1.types import PullRequest, PullResponse, Subscription, Topic
from tests.pubsub.conftest import Room, until
from tests.pubsub.test_letters import rows

from penstock.clock import boottime
from penstock.pubsub import DeadLetterQueue
from penstock.pubsub.letters import KEYS
from penstock.telemetry.event import REGISTRY

NAME = "projects/p/subscriptions/readings"
TOPIC = "projects/p/topics/dead"
READER = "projects/p/subscriptions/dead-reader"


async def make_topic(room: Room) -> None:
    await room.channel.unary("Publisher", "CreateTopic")(Topic.serialize(Topic(name=TOPIC)))
    subscription = Subscription.serialize(Subscription(name=READER, topic=TOPIC))
    await room.channel.unary("Subscriber", "CreateSubscription")(subscription)


async def read(room: Room, count: int) -> PullResponse:
    pull = room.channel.unary("Subscriber", "Pull")
    raw = await pull(PullRequest.serialize(PullRequest(subscription=READER, max_messages=count)))
    response: PullResponse = PullResponse.deserialize(raw)
    return response


@pytest.fixture
async def queue(room: Room) -> AsyncIterator[DeadLetterQueue]:
    queue = DeadLetterQueue(
        room.channel, NAME, TOPIC, limit=5, clock=boottime, rng=random.Random(1), base_backoff_s=0.01
    )
    running = asyncio.ensure_future(queue.run())
    yield queue
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_letter_is_settled_once_it_is_confirmed_and_says_why_it_is_one(
    room: Room, queue: DeadLetterQueue
) -> None:
    await make_topic(room)
    settled: list[int] = []
    queue.publish(rows([[("a", "1")], []]), lambda: settled.append(2))
    await until(lambda: settled == [2])
    got = [message.message for message in (await read(room, 10)).received_messages]
    got.sort(key=lambda message: message.attributes["penstock_message_id"])  # keys are published one after another
    assert [message.data for message in got] == [b"x", b"x"]
    values = (NAME, "m0", "6", "delivered more than 5 times")
    assert dict(got[0].attributes) == {"a": "1", **dict(zip(KEYS, values, strict=True))}
    assert queue.statistics.figures() == {"published": 2, "refused": 0, "pending": 0}


async def test_letters_wait_for_a_topic_that_does_not_exist_and_it_is_said(room: Room, queue: DeadLetterQueue) -> None:
    labels = {"subscription": NAME, "code": "NOT_FOUND"}
    before = REGISTRY.get_sample_value("penstock_dead_letters_refused_total", labels) or 0.0
    settled: list[int] = []
    queue.publish(rows([[]] * 3), lambda: settled.append(3))
    await until(lambda: queue.gate.trouble() is not None, 30)
    trouble = queue.gate.trouble()
    assert trouble is not None
    assert "dead letters cannot be published" in trouble
    assert "NOT_FOUND" in trouble
    assert TOPIC in trouble
    assert not settled
    assert queue.statistics.pending == 3
    assert (REGISTRY.get_sample_value("penstock_dead_letters_refused_total", labels) or 0.0) > before
    await make_topic(room)
    await until(lambda: settled == [3], 30)
    assert len((await read(room, 10)).received_messages) == 3


async def test_failures_that_pass_lose_nothing(room: Room, queue: DeadLetterQueue) -> None:
    await make_topic(room)
    room.emulator.faults.fail("Publish", "UNAVAILABLE", times=4)
    settled: list[int] = []
    for job in range(3):
        queue.publish(rows([[]] * 1500), lambda job=job: settled.append(job))  # type: ignore[misc]
    await until(lambda: sorted(settled) == [0, 1, 2])
    assert queue.statistics.published == 4500


async def test_a_message_that_the_service_refuses_holds_up_no_other(room: Room, queue: DeadLetterQueue) -> None:
    await make_topic(room)
    settled: list[str] = []
    bad = [[(f"a{n}", "") for n in range(101)]]
    queue.publish(rows([[], [], *bad, []]), lambda: settled.append("with the bad one"))
    queue.publish(rows([[]] * 2), lambda: settled.append("good"))
    await until(lambda: queue.statistics.published == 5)
    assert settled == ["good"]
    assert queue.statistics.pending == 1


async def test_a_message_as_large_as_the_service_takes_goes_without_reasons(room: Room, queue: DeadLetterQueue) -> None:
    await make_topic(room)
    settled: list[int] = []
    queue.publish(rows([[("a", "1")]], data=b"x" * 9_999_800), lambda: settled.append(1))
    await until(lambda: settled == [1])
    (got,) = (await read(room, 10)).received_messages
    assert dict(got.message.attributes) == {"a": "1"}


async def test_a_request_has_letters_of_one_ordering_key_only(room: Room, queue: DeadLetterQueue) -> None:
    await make_topic(room)
    asked: list[set[str]] = []
    publish = room.emulator.broker.publish

    def watching(topic: str, messages: pa.StructArray, request_bytes: int) -> Any:
        asked.append(set(messages.field("ordering_key").to_pylist()))
        return publish(topic, messages, request_bytes)

    room.emulator.broker.publish = watching  # type: ignore[method-assign]
    batch = rows([[]] * 6)
    keys = pa.array(["a", "a", "b", None, "", "a"])
    settled: list[int] = []
    queue.publish(
        batch.set_column(batch.schema.get_field_index("ordering_key"), "ordering_key", keys), lambda: settled.append(6)
    )
    await until(lambda: settled == [6])
    assert asked == [{""}, {"a"}, {"b"}]
