"""Deadlines, nacks, retry policies and dead letters."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf import duration_pb2
from google.pubsub_v1 import types
from tests.emulator.raw import SUBSCRIPTION, TOPIC, ManualClock, RawClient, refused, until

from penstock.emulator import Emulator

DEAD_TOPIC = "projects/p/topics/dead"
DEAD_SUBSCRIPTION = "projects/p/subscriptions/dead"


async def test_an_expired_message_comes_again_under_a_new_ack_id(
    client: RawClient, clock: ManualClock, emulator: Emulator
) -> None:
    await client.create()
    await client.publish(b"1")
    async with client.stream(stream_ack_deadline_seconds=10) as stream:
        (first,) = await stream.receive(1)
        clock.now += 9.9
        await until(lambda: emulator.faults.statistics(SUBSCRIPTION)["outstanding"] == 1)
        clock.now += 0.2
        (second,) = await stream.receive(2)
    assert second.message.message_id == first.message.message_id
    assert second.ack_id != first.ack_id
    assert emulator.faults.statistics(SUBSCRIPTION)["expired"] == 1


async def test_a_nacked_message_comes_again_at_once(client: RawClient) -> None:
    await client.create()
    await client.publish(b"1", b"2")
    async with client.stream() as stream:
        first, _ = await stream.receive(2)
        await stream.say(modify_deadline_ack_ids=[first.ack_id], modify_deadline_seconds=[0])
        (again,) = await stream.receive(3)
    assert again.message.data == b"1"


async def test_a_modack_moves_the_deadline(client: RawClient, clock: ManualClock, emulator: Emulator) -> None:
    await client.create()
    await client.publish(b"1")
    (received,) = await client.pull()
    for _ in range(5):
        await client.modify(60, received.ack_id)
        clock.now += 59
        emulator.broker.tick()
        assert not await client.pull()
    clock.now += 2
    emulator.broker.tick()
    assert len(await client.pull()) == 1


@pytest.mark.parametrize("deadline_s", [-1, 601])
async def test_a_modack_out_of_range_is_refused(client: RawClient, deadline_s: int) -> None:
    await client.create()
    await client.publish(b"1")
    (received,) = await client.pull()
    error = await refused(client.modify(deadline_s, received.ack_id))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_an_ack_after_the_deadline_still_counts(
    client: RawClient, clock: ManualClock, emulator: Emulator
) -> None:
    await client.create()
    await client.publish(b"1")
    (received,) = await client.pull()
    clock.now += 11
    emulator.broker.tick()
    await client.ack(received.ack_id)
    assert not await client.pull()
    assert emulator.faults.statistics(SUBSCRIPTION)["remaining"] == 0


async def test_a_modack_of_an_old_delivery_changes_nothing(
    client: RawClient, clock: ManualClock, emulator: Emulator
) -> None:
    await client.create()
    await client.publish(b"1")
    (old,) = await client.pull()
    clock.now += 11
    emulator.broker.tick()
    (_new,) = await client.pull()
    await client.modify(0, old.ack_id)
    assert not await client.pull()


async def test_acks_of_foreign_and_malformed_ids_are_invalid(client: RawClient) -> None:
    other = "projects/p/subscriptions/other"
    await client.create()
    await client.create(subscription=other)
    await client.publish(b"1")
    (received,) = await client.pull()
    for ack_id in ("short", received.ack_id[:-1] + "g", "0" * 188):
        error = await refused(client.ack(ack_id))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert error.details() == f"You have passed an invalid ack ID to the service (ack_id={ack_id})."
    error = await refused(client.ack(received.ack_id, subscription=other))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (await refused(client.ack())).code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_an_ack_request_over_512_kib_is_refused(client: RawClient) -> None:
    await client.create()
    for _ in range(3):
        await client.publish(*(b"x" for _ in range(1000)))
    ack_ids = [each.ack_id for _ in range(3) for each in await client.pull(1000)]
    assert (await refused(client.ack(*ack_ids))).code() == grpc.StatusCode.INVALID_ARGUMENT
    await client.ack(*ack_ids[:2700])


async def test_ids_repeated_in_one_request_count_once(client: RawClient, emulator: Emulator) -> None:
    await client.create()
    await client.publish(b"1", b"2")
    first, second = await client.pull()
    await client.modify(0, first.ack_id, first.ack_id)
    await client.ack(second.ack_id, second.ack_id)
    statistics = emulator.faults.statistics(SUBSCRIPTION)
    assert (statistics["nacked"], statistics["acked"], statistics["remaining"]) == (1, 1, 1)


async def test_a_retry_policy_delays_a_nacked_message_longer_each_time(
    client: RawClient, clock: ManualClock, emulator: Emulator
) -> None:
    policy = types.RetryPolicy.pb()(
        minimum_backoff=duration_pb2.Duration(seconds=10), maximum_backoff=duration_pb2.Duration(seconds=15)
    )
    await client.create(retry_policy=policy)
    await client.publish(b"1")
    for wait_s in (10, 15, 15):
        (received,) = await client.pull()
        await client.modify(0, received.ack_id)
        clock.now += wait_s - 0.1
        emulator.broker.tick()
        assert not await client.pull()
        clock.now += 0.2
        emulator.broker.tick()


async def test_delivery_attempts_are_told_and_the_last_one_leads_to_the_dead_letter_topic(client: RawClient) -> None:
    await client.create(topic=DEAD_TOPIC, subscription=DEAD_SUBSCRIPTION)
    await client.create(
        dead_letter_policy=types.DeadLetterPolicy.pb()(dead_letter_topic=DEAD_TOPIC, max_delivery_attempts=5)
    )
    await client.publish({"data": b"bad", "attributes": {"a": "1"}})
    for attempt in range(1, 6):
        (received,) = await client.pull()
        assert received.delivery_attempt == attempt
        await client.modify(0, received.ack_id)
    assert not await client.pull()
    (dead,) = await client.pull(subscription=DEAD_SUBSCRIPTION)
    assert dead.message.data == b"bad"
    attributes = dict(dead.message.attributes)
    assert attributes.pop("CloudPubSubDeadLetterSourceTopicPublishTime")
    assert attributes == {
        "a": "1",
        "CloudPubSubDeadLetterSourceSubscription": SUBSCRIPTION.rsplit("/", 1)[-1],
        "CloudPubSubDeadLetterSourceSubscriptionProject": "p",
        "CloudPubSubDeadLetterSourceDeliveryCount": "5",
    }


async def test_without_a_dead_letter_topic_a_message_keeps_coming(client: RawClient) -> None:
    await client.create(
        dead_letter_policy=types.DeadLetterPolicy.pb()(dead_letter_topic=DEAD_TOPIC, max_delivery_attempts=5)
    )
    await client.publish(b"bad")
    for attempt in range(1, 8):
        (received,) = await client.pull()
        assert received.delivery_attempt == attempt
        await client.modify(0, received.ack_id)


async def test_memory_follows_what_is_not_acknowledged(client: RawClient, emulator: Emulator) -> None:
    await client.create()
    for _ in range(20):
        await client.publish(b"1", b"2", topic=TOPIC)
    received = await client.pull()
    await client.ack(*(each.ack_id for each in received[2:]))
    statistics = emulator.faults.statistics(SUBSCRIPTION)
    assert (statistics["segments"], statistics["remaining"]) == (1, 2)
    await client.ack(*(each.ack_id for each in received[:2]))
    assert emulator.faults.statistics(SUBSCRIPTION)["segments"] == 0


async def test_single_messages_are_kept_together(client: RawClient, emulator: Emulator) -> None:
    await client.create()
    for number in range(100):
        await client.publish({"data": b"%d" % number, "attributes": {"number": str(number)}})
    assert emulator.faults.statistics(SUBSCRIPTION)["segments"] == 1
    received = await client.pull()
    assert [each.message.data for each in received] == [b"%d" % number for number in range(100)]
    assert [each.message.attributes["number"] for each in received] == [str(number) for number in range(100)]
