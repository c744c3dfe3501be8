"""Seek to a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2, timestamp_pb2
from google.pubsub_v1 import types
from tests.emulator.raw import SUBSCRIPTION, TOPIC, ManualClock, RawClient, Topic, connected, refused

from penstock.emulator import Emulator

START_S = 1_700_000_000


@pytest.fixture
def wall() -> ManualClock:
    wall = ManualClock()
    wall.now = START_S
    return wall


@pytest.fixture
async def emulator(clock: ManualClock, wall: ManualClock) -> AsyncIterator[Emulator]:
    async with Emulator(clock=clock, wall=wall) as emulator:
        yield emulator


@pytest.fixture
async def client(emulator: Emulator) -> AsyncIterator[RawClient]:
    async with connected(emulator.address) as client:
        yield client


async def _seek(client: RawClient, time_s: int) -> None:
    request = types.SeekRequest.pb()(subscription=SUBSCRIPTION, time=timestamp_pb2.Timestamp(seconds=time_s))
    await client.call("Subscriber", "Seek", request, types.SeekResponse)


async def _publish_three(client: RawClient, wall: ManualClock) -> None:
    for number in range(3):
        wall.now = START_S + number
        await client.publish(b"%d" % number)


def _data(received: list[Any]) -> list[bytes]:
    return [each.message.data for each in received]


async def test_acknowledged_messages_come_back_when_they_are_retained(client: RawClient, wall: ManualClock) -> None:
    await client.create(retain_acked_messages=True)
    await _publish_three(client, wall)
    await client.ack(*(each.ack_id for each in await client.pull()))
    await _seek(client, START_S + 1)
    assert _data(await client.pull()) == [b"1", b"2"]


async def test_acknowledged_messages_are_gone_when_they_are_not_retained(client: RawClient, wall: ManualClock) -> None:
    await client.create()
    await _publish_three(client, wall)
    first, second, _ = await client.pull()
    await client.ack(first.ack_id, second.ack_id)
    await _seek(client, START_S)
    assert not await client.pull()


async def test_a_topic_that_retains_messages_gives_them_back(client: RawClient, wall: ManualClock) -> None:
    await client.call(
        "Publisher",
        "CreateTopic",
        Topic(name=TOPIC, message_retention_duration=duration_pb2.Duration(seconds=3600)),
    )
    await client.create()
    await _publish_three(client, wall)
    await client.ack(*(each.ack_id for each in await client.pull()))
    await _seek(client, START_S)
    assert _data(await client.pull()) == [b"0", b"1", b"2"]


async def test_a_seek_into_the_future_purges(client: RawClient, wall: ManualClock, emulator: Emulator) -> None:
    await client.create()
    await _publish_three(client, wall)
    await client.pull(1)
    await _seek(client, START_S + 100)
    assert emulator.faults.statistics(SUBSCRIPTION)["remaining"] == 0
    wall.now = START_S + 101
    await client.publish(b"new")
    assert _data(await client.pull()) == [b"new"]


async def test_a_seek_purges_what_is_older_and_keeps_what_is_newer(client: RawClient, wall: ManualClock) -> None:
    await client.create()
    await _publish_three(client, wall)
    await _seek(client, START_S + 2)
    assert _data(await client.pull()) == [b"2"]


async def test_retained_messages_are_forgotten_after_their_retention(
    client: RawClient, wall: ManualClock, emulator: Emulator
) -> None:
    await client.create(retain_acked_messages=True, message_retention_duration=duration_pb2.Duration(seconds=600))
    await _publish_three(client, wall)
    await client.ack(*(each.ack_id for each in await client.pull()))
    wall.now = START_S + 601
    emulator.broker.tick()
    await _seek(client, START_S)
    assert _data(await client.pull()) == [b"1", b"2"]
    wall.now = START_S + 10_000
    emulator.broker.tick()
    assert emulator.faults.statistics(SUBSCRIPTION)["segments"] == 0


async def test_unacknowledged_messages_are_dropped_after_their_retention(
    client: RawClient, wall: ManualClock, emulator: Emulator
) -> None:
    await client.create(message_retention_duration=duration_pb2.Duration(seconds=600))
    await _publish_three(client, wall)
    wall.now = START_S + 601
    emulator.broker.tick()
    assert _data(await client.pull()) == [b"1", b"2"]


async def test_a_seek_to_a_snapshot_is_refused(client: RawClient) -> None:
    await client.create()
    request = types.SeekRequest.pb()(subscription=SUBSCRIPTION, snapshot="projects/p/snapshots/s")
    error = await refused(client.call("Subscriber", "Seek", request))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
