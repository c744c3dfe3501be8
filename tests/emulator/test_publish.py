"""What Publish takes, refuses and gives."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.pubsub_v1 import types
from tests.emulator.raw import TOPIC, RawClient, refused

PublishRequest = types.PublishRequest.pb()
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "message",
    [
        {"data": b""},
        {"ordering_key": "only"},
        {"data": b"x", "attributes": {str(i): "" for i in range(101)}},
        {"data": b"x", "attributes": {"k" * 257: ""}},
        {"data": b"x", "attributes": {"": "v"}},
        {"data": b"x", "attributes": {"k": "v" * 1025}},
        {"data": b"x", "ordering_key": "k" * 1025},
        {"data": bytes(10_000_000)},
    ],
    ids=["empty", "key only", "101 attributes", "long key", "empty key", "long value", "long ordering key", "10 MB"],
)
async def test_a_message_over_a_limit_is_refused_with_the_whole_request(
    client: RawClient, message: dict[str, Any]
) -> None:
    await client.create()
    assert (await refused(client.publish(b"fine", message))).code() == INVALID
    assert not await client.pull()


@pytest.mark.parametrize(
    "message",
    [
        {"attributes": {"k": ""}},
        {"data": b"x", "attributes": {str(i): "" for i in range(100)}},
        {"data": b"x", "attributes": {"k" * 256: "v" * 1024}, "ordering_key": "k" * 1024},
        {"data": bytes(9_900_000)},
    ],
    ids=["attribute only", "100 attributes", "longest", "9.9 MB"],
)
async def test_a_message_at_a_limit_is_taken(client: RawClient, message: dict[str, Any]) -> None:
    await client.create()
    await client.publish(message)
    (received,) = await client.pull()
    assert received.message.data == message.get("data", b"")
    assert dict(received.message.attributes) == message.get("attributes", {})


async def test_at_most_1000_messages_are_taken_at_once(client: RawClient) -> None:
    await client.create()
    assert len(await client.publish(*(b"x" for _ in range(1000)))) == 1000
    assert (await refused(client.publish(*(b"x" for _ in range(1001))))).code() == INVALID
    assert (await refused(client.publish())).code() == INVALID


async def test_message_ids_are_unique_and_those_of_the_client_ignored(client: RawClient) -> None:
    await client.create()
    ids = await client.publish({"data": b"1", "message_id": "mine"}, {"data": b"2", "message_id": "mine"})
    ids += await client.publish(b"3")
    assert len(set(ids)) == 3
    assert [each.message.message_id for each in await client.pull()] == ids


async def test_every_subscription_gets_every_message(client: RawClient) -> None:
    second = "projects/p/subscriptions/second"
    await client.create()
    await client.create(subscription=second)
    await client.publish(b"1")
    (one,) = await client.pull()
    await client.ack(one.ack_id)
    (two,) = await client.pull(subscription=second)
    assert one.message == two.message


async def test_a_subscription_does_not_get_what_was_published_before_it(client: RawClient) -> None:
    later = "projects/p/subscriptions/later"
    await client.create()
    await client.publish(b"1")
    await client.create(subscription=later)
    assert not await client.pull(subscription=later)


async def test_a_missing_topic_is_not_found(client: RawClient) -> None:
    error = await refused(client.publish(b"x"))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert error.details() == "Resource not found (resource=readings)."


async def test_bytes_that_are_no_request_are_invalid(client: RawClient) -> None:
    await client.create()
    publish = client.channel.unary_unary("/google.pubsub.v1.Publisher/Publish")
    for raw in (b"\xff", PublishRequest(topic=TOPIC, messages=[{"data": b"x"}]).SerializeToString()[:-2]):
        assert (await refused(publish(raw, timeout=10))).code() == INVALID
