"""Subscriptions with exactly-once delivery."""

from __future__ import annotations

from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from tests.emulator.raw import ManualClock, RawClient, RawStream, refused

from penstock.emulator import Emulator


def _failures(error: grpc.aio.AioRpcError) -> dict[str, str]:
    """Why each ack ID failed, from the error's details."""
    (raw,) = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
    status = status_pb2.Status.FromString(raw)
    info = error_details_pb2.ErrorInfo()
    assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("EXACTLY_ONCE_ACKID_FAILURE", "pubsub.googleapis.com")
    return dict(info.metadata)


async def _confirmation(stream: RawStream, name: str) -> Any:
    while True:
        response = await stream.response()
        if response.HasField(name):
            return getattr(response, name)


async def test_acks_and_modacks_on_a_stream_are_confirmed(client: RawClient) -> None:
    await client.create(enable_exactly_once_delivery=True)
    await client.publish(b"1")
    async with client.stream() as stream:
        (received,) = await stream.receive(1)
        await stream.say(modify_deadline_ack_ids=[received.ack_id], modify_deadline_seconds=[60])
        confirmed = await _confirmation(stream, "modify_ack_deadline_confirmation")
        assert list(confirmed.ack_ids) == [received.ack_id]
        await stream.say(ack_ids=[received.ack_id])
        confirmed = await _confirmation(stream, "acknowledge_confirmation")
        assert list(confirmed.ack_ids) == [received.ack_id]
    assert any(each.subscription_properties.exactly_once_delivery_enabled for each in stream.responses)


async def test_an_expired_ack_on_a_stream_is_confirmed_as_invalid(client: RawClient, clock: ManualClock) -> None:
    await client.create(enable_exactly_once_delivery=True)
    await client.publish(b"1")
    async with client.stream(stream_ack_deadline_seconds=10) as stream:
        (old,) = await stream.receive(1)
        clock.now += 11
        (new,) = await stream.receive(2)
        await stream.say(ack_ids=[old.ack_id, new.ack_id])
        confirmed = await _confirmation(stream, "acknowledge_confirmation")
    assert list(confirmed.ack_ids) == [new.ack_id]
    assert list(confirmed.invalid_ack_ids) == [old.ack_id]


async def test_a_late_ack_fails_with_the_reason_for_each_id_and_the_others_count(
    client: RawClient, clock: ManualClock, emulator: Emulator
) -> None:
    await client.create(enable_exactly_once_delivery=True)
    await client.publish(b"1", b"2")
    late, good = await client.pull()
    await client.modify(60, good.ack_id)
    clock.now += 11
    emulator.broker.tick()
    error = await refused(client.ack(late.ack_id, good.ack_id))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert _failures(error) == {late.ack_id: "PERMANENT_FAILURE_INVALID_ACK_ID"}
    (again,) = await client.pull()
    assert again.message.data == b"1"


async def test_a_late_modack_fails_with_the_reason(client: RawClient, clock: ManualClock) -> None:
    await client.create(enable_exactly_once_delivery=True)
    await client.publish(b"1")
    (late,) = await client.pull()
    clock.now += 11
    error = await refused(client.modify(60, late.ack_id))
    assert _failures(error) == {late.ack_id: "PERMANENT_FAILURE_INVALID_ACK_ID"}


async def test_a_repeated_ack_is_fine(client: RawClient, clock: ManualClock) -> None:
    await client.create(enable_exactly_once_delivery=True)
    await client.publish(b"1")
    (received,) = await client.pull()
    await client.ack(received.ack_id)
    clock.now += 1000
    await client.ack(received.ack_id)


async def test_without_exactly_once_nothing_is_confirmed(client: RawClient) -> None:
    await client.create()
    await client.publish(b"1")
    async with client.stream(protocol_version=1) as stream:
        (received,) = await stream.receive(1)
        await stream.say(ack_ids=[received.ack_id])
        await stream.say()
        assert not (await stream.response()).ByteSize()
