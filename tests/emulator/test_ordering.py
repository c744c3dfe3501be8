"""Ordering keys."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from google.protobuf import duration_pb2
from google.pubsub_v1 import types
from tests.emulator.raw import SUBSCRIPTION, ManualClock, RawClient, RawStream, until

from penstock.emulator import Emulator


def _keyed(key: str, *data: int) -> list[dict[str, Any]]:
    return [{"data": b"%d" % each, "ordering_key": key} for each in data]


def _data(received: list[Any], key: str) -> list[int]:
    return [int(each.message.data) for each in received if each.message.ordering_key == key]


async def test_a_key_s_messages_come_in_order_on_one_stream(client: RawClient) -> None:
    await client.create(enable_message_ordering=True)

    async def consume(stream: RawStream) -> None:
        while True:
            (response,) = [await stream.response()]
            if response.received_messages:
                await stream.say(ack_ids=[each.ack_id for each in response.received_messages])

    async with (
        client.stream(max_outstanding_messages=3) as first,
        client.stream(max_outstanding_messages=3) as second,
        asyncio.timeout(20),
    ):
        tasks = [asyncio.ensure_future(consume(stream)) for stream in (first, second)]
        for number in range(30):
            await client.publish(*_keyed("a", number), *_keyed("b", number), *_keyed("c", number))
        await until(lambda: len(first.messages) + len(second.messages) == 90)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    order: defaultdict[str, list[int]] = defaultdict(list)
    for stream in (first, second):
        for key in "abc":
            numbers = _data(stream.messages, key)
            assert numbers == sorted(numbers)
            order[key] += numbers
    assert all(sorted(order[key]) == list(range(30)) for key in "abc")


async def test_the_next_message_of_a_key_waits_for_the_stream_that_has_the_one_before(
    client: RawClient, emulator: Emulator
) -> None:
    await client.create(enable_message_ordering=True)
    async with client.stream(max_outstanding_messages=1) as first:
        await client.publish(*_keyed("a", 1))
        (one,) = await first.receive(1)
        async with client.stream() as second:
            await client.publish(*_keyed("a", 2), *_keyed("b", 1))
            (other,) = await second.receive(1)
            assert other.message.ordering_key == "b"
            assert emulator.faults.statistics(SUBSCRIPTION)["waiting"] == 1
            await first.say(ack_ids=[one.ack_id])
            await until(lambda: emulator.faults.statistics(SUBSCRIPTION)["waiting"] == 0)


async def test_a_redelivered_message_brings_the_later_ones_of_its_key_with_it(client: RawClient) -> None:
    await client.create(enable_message_ordering=True)
    await client.publish(*_keyed("a", 1, 2, 3, 4), *_keyed("b", 1, 2))
    async with client.stream() as stream:
        received = await stream.receive(6)
        by_data = {(each.message.ordering_key, int(each.message.data)): each.ack_id for each in received}
        await stream.say(ack_ids=[by_data["a", 3]])
        await stream.say(modify_deadline_ack_ids=[by_data["a", 2]], modify_deadline_seconds=[0])
        again = await stream.receive(9)
    assert _data(again, "a") == [2, 3, 4]
    assert not _data(again, "b")


async def test_an_expired_message_brings_the_later_ones_with_it(
    client: RawClient, clock: ManualClock, emulator: Emulator
) -> None:
    await client.create(enable_message_ordering=True)
    await client.publish(*_keyed("a", 1, 2))
    first, second = await client.pull()
    await client.modify(100, second.ack_id)
    clock.now += 11
    emulator.broker.tick()
    assert _data(await client.pull(), "a") == [1, 2]
    assert first.message.data == b"1"


async def test_a_message_under_a_retry_policy_is_not_overtaken_by_a_later_one_of_its_key(
    client: RawClient, clock: ManualClock
) -> None:
    policy = types.RetryPolicy.pb()(minimum_backoff=duration_pb2.Duration(seconds=10))
    await client.create(enable_message_ordering=True, retry_policy=policy)
    await client.publish(*_keyed("a", 1, 2))
    first, _ = await client.pull()
    await client.modify(0, first.ack_id)
    await client.publish(*_keyed("a", 3), *_keyed("b", 1))
    assert [each.message.ordering_key for each in await client.pull()] == ["b"]
    clock.now += 10
    assert _data(await client.pull(), "a") == [1, 2, 3]


async def test_messages_without_a_key_pass_freely(client: RawClient) -> None:
    await client.create(enable_message_ordering=True)
    await client.publish(b"1")
    await client.pull()
    await client.publish(b"2")
    assert [each.message.data for each in await client.pull()] == [b"2"]


async def test_without_ordering_keys_do_not_matter(client: RawClient) -> None:
    await client.create()
    await client.publish(*_keyed("a", 1))
    await client.pull()
    await client.publish(*_keyed("a", 2))
    assert _data(await client.pull(), "a") == [2]
