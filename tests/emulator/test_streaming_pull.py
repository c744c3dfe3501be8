"""The documented rules of a StreamingPull call."""

from __future__ import annotations

import grpc
import pytest
from google.pubsub_v1 import types
from tests.emulator.raw import SUBSCRIPTION, ManualClock, RawClient, connected, refused, until

from penstock.emulator import Emulator

INVALID = grpc.StatusCode.INVALID_ARGUMENT


async def test_messages_arrive_with_their_fields_and_ack_ids_of_188_characters(client: RawClient) -> None:
    await client.create()
    (message_id,) = await client.publish({"data": b"\x00\xff", "attributes": {"a": "1", "b": ""}, "ordering_key": "k"})
    async with client.stream() as stream:
        (received,) = await stream.receive(1)
    assert received.message.data == b"\x00\xff"
    assert dict(received.message.attributes) == {"a": "1", "b": ""}
    assert received.message.message_id == message_id
    assert received.message.ordering_key == "k"
    assert received.message.publish_time.seconds > 1_700_000_000
    assert len(received.ack_id) == 188
    assert received.delivery_attempt == 0


async def test_every_response_with_messages_tells_the_subscription_s_properties(client: RawClient) -> None:
    await client.create(enable_message_ordering=True)
    await client.publish(b"1")
    async with client.stream() as stream:
        await stream.receive(1)
    assert all(each.subscription_properties.message_ordering_enabled for each in stream.responses)
    assert not any(each.subscription_properties.exactly_once_delivery_enabled for each in stream.responses)


@pytest.mark.parametrize(
    "first", [{"subscription": ""}, {"stream_ack_deadline_seconds": 9}, {"stream_ack_deadline_seconds": 601}]
)
async def test_a_first_request_needs_a_subscription_and_a_deadline_in_range(
    client: RawClient, first: dict[str, object]
) -> None:
    await client.create()
    async with client.stream(**first) as stream:
        assert (await stream.failure()).code() == INVALID


async def test_a_missing_subscription_is_not_found(client: RawClient) -> None:
    async with client.stream() as stream:
        error = await stream.failure()
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert error.details() == "Resource not found (resource=readings)."


@pytest.mark.parametrize(
    "later",
    [
        {"subscription": SUBSCRIPTION},
        {"client_id": "another"},
        {"max_outstanding_messages": 5},
        {"max_outstanding_bytes": 5},
        {"modify_deadline_seconds": [10]},
        {"modify_deadline_ack_ids": ["x"]},
        {"stream_ack_deadline_seconds": 5},
        {"ack_ids": ["malformed"]},
        {"ack_ids": ["x" * 188]},
        {"modify_deadline_ack_ids": ["x"], "modify_deadline_seconds": [10]},
    ],
)
async def test_a_later_request_that_breaks_the_rules_ends_the_stream(
    client: RawClient, later: dict[str, object]
) -> None:
    await client.create()
    async with client.stream() as stream:
        await stream.say(**later)
        assert (await stream.failure()).code() == INVALID


async def test_the_first_request_may_carry_acks(client: RawClient, emulator: Emulator) -> None:
    await client.create()
    await client.publish(b"1")
    (received,) = await client.pull()
    async with client.stream(ack_ids=[received.ack_id]):
        await until(lambda: emulator.faults.statistics(SUBSCRIPTION)["acked"] == 1)


async def test_ack_ids_of_another_stream_are_taken(client: RawClient, emulator: Emulator) -> None:
    await client.create()
    await client.publish(b"1", b"2")
    async with client.stream() as first:
        received = await first.receive(2)
        async with client.stream() as second:
            await second.say(ack_ids=[each.ack_id for each in received])
            await until(lambda: emulator.faults.statistics(SUBSCRIPTION)["acked"] == 2)


async def test_outstanding_messages_stay_within_the_limit_across_acks(client: RawClient, emulator: Emulator) -> None:
    await client.create()
    await client.publish(*(b"%d" % i for i in range(10)))
    async with client.stream(max_outstanding_messages=3) as stream:
        await stream.receive(3)
        for acked in range(7):
            assert emulator.faults.statistics(SUBSCRIPTION)["outstanding"] == 3
            assert emulator.faults.statistics(SUBSCRIPTION)["delivered"] == 3 + acked
            await client.ack(stream.messages[acked].ack_id)
            await stream.receive(4 + acked)
    assert [each.message.data for each in stream.messages] == [b"%d" % i for i in range(10)]


async def test_outstanding_bytes_stay_within_the_limit(client: RawClient, emulator: Emulator) -> None:
    await client.create()
    await client.publish(*(bytes(400) for _ in range(10)))
    async with client.stream(max_outstanding_bytes=1000) as stream:
        await stream.receive(2)
        assert emulator.faults.statistics(SUBSCRIPTION)["outstanding"] == 2
        await stream.say(ack_ids=[stream.messages[0].ack_id])
        await stream.receive(3)
        assert emulator.faults.statistics(SUBSCRIPTION)["outstanding"] == 2


async def test_a_message_larger_than_the_limit_still_comes_alone(client: RawClient) -> None:
    await client.create()
    await client.publish(bytes(5000), b"small")
    async with client.stream(max_outstanding_bytes=1000) as stream:
        (large,) = await stream.receive(1)
        await stream.say(ack_ids=[large.ack_id])
        await stream.receive(2)


async def test_a_message_larger_than_a_response_comes_alone(client: RawClient) -> None:
    await client.create()
    await client.publish(bytes(3 << 20), bytes(3 << 20), b"small")
    async with client.stream() as stream:
        await stream.receive(3)
    assert [len(each.message.data) for each in stream.messages] == [3 << 20, 3 << 20, 5]


async def test_streams_share_a_subscription(client: RawClient) -> None:
    await client.create()
    async with client.stream(max_outstanding_messages=5) as first, client.stream(max_outstanding_messages=5) as second:
        await client.publish(*(b"%d" % i for i in range(10)))
        await first.receive(5)
        await second.receive(5)
    data = sorted(each.message.data for each in first.messages + second.messages)
    assert data == [b"%d" % i for i in range(10)]


async def test_every_keepalive_is_answered_by_a_heartbeat_when_the_client_asks_for_them(client: RawClient) -> None:
    await client.create()
    async with client.stream(protocol_version=1) as stream:
        await stream.response()
        for _ in range(3):
            await stream.say()
            assert not (await stream.response()).ByteSize()


async def test_a_later_request_may_change_the_stream_s_deadline(
    client: RawClient, emulator: Emulator, clock: ManualClock
) -> None:
    await client.create()
    async with client.stream(stream_ack_deadline_seconds=600) as stream:
        await stream.response()
        await stream.say(stream_ack_deadline_seconds=20)
        (known,) = emulator.broker.subscription(SUBSCRIPTION).streams.values()
        await until(lambda: known.ack_deadline_s == 20)
        await client.publish(b"1")
        (first,) = await stream.receive(1)
        clock.now += 21
        (second,) = await stream.receive(2)
    assert first.message.message_id == second.message.message_id


async def test_the_server_closes_streams_at_the_age_it_was_told(clock: ManualClock) -> None:
    async with Emulator(stream_close_after_s=1800, clock=clock) as emulator, connected(emulator.address) as client:
        await client.create()
        async with client.stream() as stream:
            await stream.response()
            clock.now += 1799
            await client.publish(b"1")
            await stream.receive(1)
            clock.now += 2
            assert (await stream.failure()).code() == grpc.StatusCode.UNAVAILABLE


async def test_deleting_the_subscription_ends_its_streams(client: RawClient) -> None:
    await client.create()
    async with client.stream() as stream:
        await stream.response()
        request = types.DeleteSubscriptionRequest.pb()(subscription=SUBSCRIPTION)
        await client.call("Subscriber", "DeleteSubscription", request)
        assert (await stream.failure()).code() == grpc.StatusCode.NOT_FOUND


async def test_a_detached_subscription_is_a_failed_precondition(client: RawClient) -> None:
    await client.create()
    async with client.stream() as stream:
        await stream.response()
        request = types.DetachSubscriptionRequest.pb()(subscription=SUBSCRIPTION)
        await client.call("Publisher", "DetachSubscription", request)
        assert (await stream.failure()).code() == grpc.StatusCode.FAILED_PRECONDITION
    async with client.stream() as stream:
        assert (await stream.failure()).code() == grpc.StatusCode.FAILED_PRECONDITION
    assert (await refused(client.pull())).code() == grpc.StatusCode.FAILED_PRECONDITION


async def test_a_client_that_does_not_read_holds_up_only_itself(client: RawClient, emulator: Emulator) -> None:
    await client.create()
    async with client.stream() as idle:
        await idle.response()
        for _ in range(40):
            await client.publish(*(bytes(1000) for _ in range(1000)))
        await until(lambda: emulator.faults.statistics(SUBSCRIPTION)["outstanding"] > 0)
        async with client.stream() as busy:
            await busy.receive(1000)


async def test_a_stream_whose_client_does_not_read_can_be_ended(client: RawClient, emulator: Emulator) -> None:
    await client.create()
    for _ in range(20):
        await client.publish(*(bytes(1000) for _ in range(1000)))
    async with client.stream() as idle:
        await until(lambda: emulator.faults.statistics(SUBSCRIPTION)["outstanding"] > 0)
        emulator.faults.cut_streams(SUBSCRIPTION, "INTERNAL")
        await until(lambda: emulator.faults.statistics(SUBSCRIPTION)["streams"] == 0)
        assert (await idle.failure()).code() == grpc.StatusCode.INTERNAL


async def test_what_a_cancelled_stream_had_comes_again_at_its_deadline(client: RawClient, clock: ManualClock) -> None:
    await client.create()
    await client.publish(b"1")
    async with client.stream() as stream:
        await stream.receive(1)
    assert not await client.pull()
    clock.now += 61
    async with client.stream() as stream:
        await stream.receive(1)


async def test_a_client_that_half_closes_is_still_given_what_was_on_its_way(
    client: RawClient, emulator: Emulator
) -> None:
    await client.create()
    large = b"x" * 5_000_000  # more than the connection takes while nobody reads
    for _ in range(4):
        await client.publish(large)
    async with client.stream() as stream:
        await until(lambda: emulator.faults.statistics(SUBSCRIPTION)["delivered"] >= 2)
        await stream.half_close()
        with pytest.raises(EOFError):
            await stream.receive(5)
    assert len(stream.messages) == emulator.faults.statistics(SUBSCRIPTION)["delivered"]
