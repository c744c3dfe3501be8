"""Google's own Python client publishes to the emulator and consumes from it."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import pubsub_v1
from google.cloud.pubsub_v1.subscriber.exceptions import AcknowledgeError, AcknowledgeStatus
from google.cloud.pubsub_v1.types import FlowControl, PublisherOptions
from tests.emulator.raw import SUBSCRIPTION, TIMEOUT_S, TOPIC, until

from penstock.emulator import Emulator


@pytest.fixture
async def emulator(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Emulator]:
    async with Emulator() as emulator:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", emulator.address)
        yield emulator


def _publish(count: int, **settings: Any) -> list[str]:
    publisher = pubsub_v1.PublisherClient(publisher_options=PublisherOptions(enable_message_ordering=True))
    with publisher:
        futures = [
            publisher.publish(TOPIC, b"%d" % number, ordering_key=settings.get("key", ""), number=str(number))
            for number in range(count)
        ]
        return [future.result(TIMEOUT_S) for future in futures]


def _create(**settings: Any) -> None:
    with pubsub_v1.PublisherClient() as publisher, pubsub_v1.SubscriberClient() as subscriber:
        publisher.create_topic(name=TOPIC)
        subscriber.create_subscription(request={"name": SUBSCRIPTION, "topic": TOPIC, **settings})


@contextmanager
def _subscribed(callback: Callable[[Any], None]) -> Iterator[None]:
    """A streaming pull of Google's client within the block."""
    with pubsub_v1.SubscriberClient() as subscriber:
        future = subscriber.subscribe(SUBSCRIPTION, callback, flow_control=FlowControl(max_messages=10_000))
        try:
            yield
        finally:
            future.cancel()
            future.result(TIMEOUT_S)


async def test_everything_published_is_consumed_and_acknowledged(emulator: Emulator) -> None:
    await asyncio.to_thread(_create)
    received: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def consume() -> list[Any]:
        ids = _publish(3000)

        def callback(message: Any) -> None:
            received.put(message)
            message.ack()

        with _subscribed(callback):
            messages = [received.get(timeout=TIMEOUT_S) for _ in range(3000)]
        assert sorted(message.message_id for message in messages) == sorted(ids)
        return messages

    messages = await asyncio.to_thread(consume)
    assert {message.data for message in messages} == {b"%d" % number for number in range(3000)}
    assert all(message.attributes["number"] == message.data.decode() for message in messages)
    await until(lambda: emulator.faults.statistics(SUBSCRIPTION)["remaining"] == 0)
    assert emulator.faults.statistics(SUBSCRIPTION)["redelivered"] == 0


async def test_a_key_s_messages_are_consumed_in_order(emulator: Emulator) -> None:
    def consume() -> list[int]:
        _create(enable_message_ordering=True)
        _publish(60, key="k")
        received: queue.SimpleQueue[int] = queue.SimpleQueue()

        def callback(message: Any) -> None:
            received.put(int(message.data))
            message.ack()

        with _subscribed(callback):
            return [received.get(timeout=TIMEOUT_S) for _ in range(60)]

    assert await asyncio.to_thread(consume) == list(range(60))
    await until(lambda: emulator.faults.statistics(SUBSCRIPTION)["remaining"] == 0)


async def test_exactly_once_acks_succeed_and_a_late_one_is_told_so(emulator: Emulator) -> None:
    def consume() -> None:
        _create(enable_exactly_once_delivery=True)
        _publish(2)
        received: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with _subscribed(received.put):
            good, late = received.get(timeout=TIMEOUT_S), received.get(timeout=TIMEOUT_S)
            assert good.ack_with_response().result(TIMEOUT_S) == AcknowledgeStatus.SUCCESS
            assert emulator.faults.redeliver(SUBSCRIPTION) == 1
            again = received.get(timeout=TIMEOUT_S)
            assert again.message_id == late.message_id
            with pytest.raises(AcknowledgeError) as caught:
                late.ack_with_response().result(TIMEOUT_S)
            assert caught.value.error_code == AcknowledgeStatus.INVALID_ACK_ID
            assert again.ack_with_response().result(TIMEOUT_S) == AcknowledgeStatus.SUCCESS

    await asyncio.to_thread(consume)
    assert emulator.faults.statistics(SUBSCRIPTION)["remaining"] == 0


async def test_a_nacked_message_is_consumed_again(emulator: Emulator) -> None:
    def consume() -> None:
        _create()
        _publish(1)
        received: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with _subscribed(received.put):
            received.get(timeout=TIMEOUT_S).nack()
            received.get(timeout=TIMEOUT_S).ack()

    await asyncio.to_thread(consume)
    await until(lambda: emulator.faults.statistics(SUBSCRIPTION)["remaining"] == 0)


async def test_a_seek_into_the_past_brings_acknowledged_messages_back(emulator: Emulator) -> None:
    def consume() -> list[bytes]:
        _create(retain_acked_messages=True)
        _publish(3)
        with pubsub_v1.SubscriberClient() as subscriber:
            first = subscriber.pull(subscription=SUBSCRIPTION, max_messages=10).received_messages
            subscriber.acknowledge(subscription=SUBSCRIPTION, ack_ids=[each.ack_id for each in first])
            subscriber.seek(request={"subscription": SUBSCRIPTION, "time": first[0].message.publish_time})
            return [
                each.message.data
                for each in subscriber.pull(subscription=SUBSCRIPTION, max_messages=10).received_messages
            ]

    assert await asyncio.to_thread(consume) == [b"0", b"1", b"2"]
    assert emulator.faults.statistics(SUBSCRIPTION)["remaining"] == 3


async def test_errors_are_the_exceptions_that_google_s_client_knows(emulator: Emulator) -> None:
    def provoke() -> None:
        with pubsub_v1.SubscriberClient() as subscriber, pubsub_v1.PublisherClient() as publisher:
            with pytest.raises(exceptions.NotFound):
                subscriber.get_subscription(subscription=SUBSCRIPTION)
            publisher.create_topic(name=TOPIC)
            with pytest.raises(exceptions.AlreadyExists):
                publisher.create_topic(name=TOPIC)
            with pytest.raises(exceptions.InvalidArgument):
                publisher.create_topic(name="readings")
            with pytest.raises(exceptions.InvalidArgument):
                publisher.publish(TOPIC, b"").result(TIMEOUT_S)

    await asyncio.to_thread(provoke)
    assert TOPIC in emulator.broker.topics


async def test_consumption_survives_cut_connections(emulator: Emulator) -> None:
    def consume() -> set[bytes]:
        _create()
        _publish(200)
        received: queue.SimpleQueue[bytes] = queue.SimpleQueue()

        def callback(message: Any) -> None:
            received.put(message.data)
            message.ack()

        with _subscribed(callback):
            data = {received.get(timeout=TIMEOUT_S) for _ in range(200)}
            emulator.faults.cut_connections()
            _publish(300)
            while len(data) < 300:
                data.add(received.get(timeout=TIMEOUT_S))
        return data

    assert len(await asyncio.to_thread(consume)) == 300
