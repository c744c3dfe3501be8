"""Faults that tests ask for, in process and over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from google.protobuf.message import DecodeError
from tests.emulator.raw import (
    SUBSCRIPTION,
    TIMEOUT_S,
    TOPIC,
    ManualClock,
    RawClient,
    StreamingPullResponse,
    refused,
    until,
)

from penstock.emulator import Emulator, FaultClient
from penstock.errors import InvalidRequest, NodeUnreachable

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
async def emulator(clock: ManualClock) -> AsyncIterator[Emulator]:
    async with Emulator(clock=clock, http_port=0, faults=True) as emulator:
        yield emulator


@pytest.fixture
def faults(emulator: Emulator) -> FaultClient:
    assert emulator.http_address is not None
    return FaultClient(emulator.http_address)


async def test_the_next_calls_fail_as_asked_and_then_no_more(client: RawClient, faults: FaultClient) -> None:
    await client.create()
    await client.publish(b"1")
    (received,) = await client.pull()
    await asyncio.to_thread(faults.fail, "Acknowledge", "UNAVAILABLE", 2)
    for _ in range(2):
        assert (await refused(client.ack(received.ack_id))).code() == UNAVAILABLE
    await client.ack(received.ack_id)
    statistics = await asyncio.to_thread(faults.statistics, SUBSCRIPTION)
    assert statistics["remaining"] == 0
    assert statistics["calls"]["Acknowledge"] == 3


async def test_a_stream_fails_at_its_start(client: RawClient, faults: FaultClient) -> None:
    await client.create()
    await asyncio.to_thread(faults.fail, "StreamingPull", "PERMISSION_DENIED")
    async with client.stream() as stream:
        assert (await stream.failure()).code() == grpc.StatusCode.PERMISSION_DENIED
    async with client.stream() as stream:
        await stream.response()


async def test_a_delayed_call_waits(client: RawClient, faults: FaultClient) -> None:
    await client.create()
    await asyncio.to_thread(faults.delay, "Publish", 60.0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.publish(b"1"), 0.2)
    await client.publish(b"2")
    assert [each.message.data for each in await client.pull()] == [b"2"]


async def test_a_fault_of_publish_may_be_that_of_one_topic(client: RawClient, faults: FaultClient) -> None:
    await client.create()
    other = "projects/p/topics/other"
    await asyncio.to_thread(faults.fail, "Publish", "RESOURCE_EXHAUSTED", 1000, topic=other)
    await client.publish(b"1")
    await asyncio.to_thread(faults.fail, "Publish", "RESOURCE_EXHAUSTED", 1000, topic=TOPIC)
    assert (await refused(client.publish(b"2"))).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    await asyncio.to_thread(faults.clear, TOPIC)
    await client.publish(b"3")
    assert sorted([each.message.data for each in await client.pull()]) == [b"1", b"3"]
    with pytest.raises(InvalidRequest, match="Pull has no topic"):
        await asyncio.to_thread(faults.fail, "Pull", "UNAVAILABLE", 1, topic=TOPIC)


async def test_all_streams_are_cut_with_the_code_asked_for(client: RawClient, faults: FaultClient) -> None:
    await client.create()
    async with client.stream() as first, client.stream() as second:
        await first.response()
        await second.response()
        assert await asyncio.to_thread(faults.cut_streams, SUBSCRIPTION, "INTERNAL") == 2
        for stream in (first, second):
            assert (await stream.failure()).code() == grpc.StatusCode.INTERNAL


async def test_connections_are_cut_without_a_word(client: RawClient, faults: FaultClient) -> None:
    await client.create()
    async with client.stream() as stream:
        await stream.response()
        assert await asyncio.to_thread(faults.cut_connections) == 1
        assert (await stream.failure()).code() == UNAVAILABLE
    await until_connected(client)


async def until_connected(client: RawClient) -> None:
    """Open streams until one is answered: a client may find out late that its connection was cut."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                async with client.stream() as stream:
                    await stream.response()
                    return
            except grpc.aio.AioRpcError as error:
                if error.code() != UNAVAILABLE:
                    raise


async def test_dropped_acks_are_answered_but_do_nothing(client: RawClient, faults: FaultClient) -> None:
    await client.create()
    await client.publish(b"1")
    (received,) = await client.pull()
    await asyncio.to_thread(faults.drop_acks, SUBSCRIPTION, 1)
    await client.ack(received.ack_id)
    statistics = await asyncio.to_thread(faults.statistics, SUBSCRIPTION)
    assert (statistics["remaining"], statistics["dropped_ack_ids"]) == (1, 1)
    await client.ack(received.ack_id)
    assert (await asyncio.to_thread(faults.statistics, SUBSCRIPTION))["remaining"] == 0


async def test_a_dropped_ack_of_an_exactly_once_subscription_is_not_called_done(
    client: RawClient, faults: FaultClient
) -> None:
    await client.create(enable_exactly_once_delivery=True)
    await client.publish(b"1")
    async with client.stream() as stream:
        (received,) = await stream.receive(1)
        await asyncio.to_thread(faults.drop_acks, SUBSCRIPTION, 1)
        error = await refused(client.ack(received.ack_id))
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        await client.ack(received.ack_id)


async def test_an_unacknowledged_message_is_delivered_twice(client: RawClient, faults: FaultClient) -> None:
    await client.create()
    await client.publish(b"1", b"2")
    async with client.stream() as stream:
        first, _ = await stream.receive(2)
        assert await asyncio.to_thread(faults.redeliver, SUBSCRIPTION, 1) == 1
        (again,) = await stream.receive(3)
    assert again.message.message_id == first.message.message_id
    assert again.ack_id != first.ack_id


async def test_undecodable_bytes_come_as_the_next_response(client: RawClient, faults: FaultClient) -> None:
    await client.create()
    async with client.stream() as stream:
        await stream.response()
        call = client.channel.stream_stream("/google.pubsub.v1.Subscriber/StreamingPull")()
        await call.write(stream._first.SerializeToString())
        await call.read()
        assert await asyncio.to_thread(faults.garble, SUBSCRIPTION) == 2
        with pytest.raises(DecodeError):
            StreamingPullResponse.FromString(await call.read())
        await client.publish(b"still alive")
        call.cancel()


async def test_what_was_asked_for_can_be_taken_back(client: RawClient, faults: FaultClient) -> None:
    await client.create()
    await asyncio.to_thread(faults.fail, "Publish", "INTERNAL", 10)
    await asyncio.to_thread(faults.clear)
    await client.publish(b"1")


async def test_statistics_tell_streams_and_clients(client: RawClient, faults: FaultClient, emulator: Emulator) -> None:
    await client.create()
    async with client.stream(client_id="me") as stream:
        await stream.response()
        statistics = await asyncio.to_thread(faults.statistics, SUBSCRIPTION)
    assert (statistics["streams"], len(statistics["stream_ids"]), statistics["client_ids"]) == (1, 1, ["me"])
    await until(lambda: emulator.faults.statistics(SUBSCRIPTION)["streams"] == 0)


async def test_an_unknown_method_code_or_subscription_is_an_error(faults: FaultClient) -> None:
    with pytest.raises(InvalidRequest, match="NO_SUCH"):
        await asyncio.to_thread(faults.fail, "Publish", "NO_SUCH")
    with pytest.raises(InvalidRequest, match="NoSuch"):
        await asyncio.to_thread(faults.fail, "NoSuch", "INTERNAL")
    with pytest.raises(InvalidRequest, match="not found"):
        await asyncio.to_thread(faults.statistics, SUBSCRIPTION)


async def test_without_faults_there_are_statistics_only() -> None:
    async with Emulator(http_port=0) as emulator:
        assert emulator.http_address is not None
        client = FaultClient(emulator.http_address)
        with pytest.raises(InvalidRequest, match="404"):
            await asyncio.to_thread(client.cut_connections)


async def test_an_absent_emulator_is_unreachable(unused_tcp_port: int) -> None:
    with pytest.raises(NodeUnreachable, match=str(unused_tcp_port)):
        await asyncio.to_thread(FaultClient(f"127.0.0.1:{unused_tcp_port}").clear)
