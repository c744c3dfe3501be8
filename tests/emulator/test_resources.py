"""Topics and subscriptions: create, get, update, list, delete, detach."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2, field_mask_pb2
from google.pubsub_v1 import types
from tests.emulator.raw import SUBSCRIPTION, TOPIC, RawClient, Subscription, Topic, refused

INVALID = grpc.StatusCode.INVALID_ARGUMENT


async def _get(client: RawClient) -> Any:
    request = types.GetSubscriptionRequest.pb()(subscription=SUBSCRIPTION)
    return await client.call("Subscriber", "GetSubscription", request, types.Subscription)


async def _update(client: RawClient, subscription: Any, *paths: str) -> Any:
    request = types.UpdateSubscriptionRequest.pb()(
        subscription=subscription, update_mask=field_mask_pb2.FieldMask(paths=paths)
    )
    return await client.call("Subscriber", "UpdateSubscription", request, types.Subscription)


async def test_a_created_subscription_has_the_service_s_defaults(client: RawClient) -> None:
    await client.create()
    found = await _get(client)
    assert (found.name, found.topic, found.ack_deadline_seconds) == (SUBSCRIPTION, TOPIC, 10)
    assert found.message_retention_duration.seconds == 7 * 86_400
    assert not found.detached


async def test_what_exists_already_cannot_be_created(client: RawClient) -> None:
    await client.create()
    for service, method, proto in (
        ("Publisher", "CreateTopic", Topic(name=TOPIC)),
        ("Subscriber", "CreateSubscription", Subscription(name=SUBSCRIPTION, topic=TOPIC)),
    ):
        error = await refused(client.call(service, method, proto))
        assert error.code() == grpc.StatusCode.ALREADY_EXISTS
        assert error.details() == "Resource already exists in the project (resource=readings)."


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"name": "readings"}, INVALID),
        ({"name": "projects/p/subscriptions/1st"}, INVALID),
        ({"name": "projects/p/subscriptions/goog-x"}, INVALID),
        ({"topic": "projects/p/topics/missing"}, grpc.StatusCode.NOT_FOUND),
        ({"ack_deadline_seconds": 9}, INVALID),
        ({"ack_deadline_seconds": 601}, INVALID),
        ({"message_retention_duration": duration_pb2.Duration(seconds=599)}, INVALID),
        ({"dead_letter_policy": {"dead_letter_topic": TOPIC, "max_delivery_attempts": 4}}, INVALID),
        ({"retry_policy": {"maximum_backoff": duration_pb2.Duration(seconds=601)}}, INVALID),
        ({"push_config": {"push_endpoint": "https://example.com"}}, INVALID),
        ({"filter": "nonsense"}, INVALID),
    ],
)
async def test_a_subscription_that_cannot_be_is_refused(
    client: RawClient, settings: dict[str, Any], code: grpc.StatusCode
) -> None:
    await client.call("Publisher", "CreateTopic", Topic(name=TOPIC))
    proto = Subscription(**{"name": SUBSCRIPTION, "topic": TOPIC} | settings)
    assert (await refused(client.call("Subscriber", "CreateSubscription", proto))).code() == code


async def test_a_name_that_is_too_short_is_told_what_a_name_is(client: RawClient) -> None:
    error = await refused(client.call("Publisher", "CreateTopic", Topic(name="projects/p/topics/t2")))
    assert "projects/p/topics/t2" in (error.details() or "")
    assert "3 to 255 letters" in (error.details() or "")


async def test_an_update_changes_what_its_mask_names(client: RawClient) -> None:
    await client.create()
    wanted = Subscription(name=SUBSCRIPTION, ack_deadline_seconds=77, retain_acked_messages=True, labels={"a": "b"})
    await _update(client, wanted, "ack_deadline_seconds", "labels")
    found = await _get(client)
    assert (found.ack_deadline_seconds, found.retain_acked_messages, dict(found.labels)) == (77, False, {"a": "b"})


@pytest.mark.parametrize("path", ["topic", "filter", "enable_message_ordering", "no_such_field"])
async def test_an_update_of_what_cannot_change_is_refused(client: RawClient, path: str) -> None:
    await client.create()
    wanted = Subscription(name=SUBSCRIPTION, topic="other", filter="attributes:a", enable_message_ordering=True)
    assert (await refused(_update(client, wanted, path))).code() == INVALID


async def test_exactly_once_delivery_can_be_switched_on_later(client: RawClient) -> None:
    await client.create()
    async with client.stream() as stream:
        await stream.response()
        await _update(
            client, Subscription(name=SUBSCRIPTION, enable_exactly_once_delivery=True), "enable_exactly_once_delivery"
        )
        await client.publish(b"1")
        await stream.receive(1)
        assert stream.responses[-1].subscription_properties.exactly_once_delivery_enabled


async def test_a_topic_s_labels_can_be_updated(client: RawClient) -> None:
    await client.create()
    request = types.UpdateTopicRequest.pb()(
        topic=Topic(name=TOPIC, labels={"a": "b"}), update_mask=field_mask_pb2.FieldMask(paths=["labels"])
    )
    await client.call("Publisher", "UpdateTopic", request)
    found = await client.call("Publisher", "GetTopic", types.GetTopicRequest.pb()(topic=TOPIC), types.Topic)
    assert dict(found.labels) == {"a": "b"}


async def test_lists_come_in_pages_and_by_project(client: RawClient) -> None:
    names = [f"projects/p/subscriptions/sub{number}" for number in range(5)]
    for name in names:
        await client.create(subscription=name)
    await client.create(topic="projects/p2/topics/other", subscription="projects/p2/subscriptions/other")
    listed, token = [], ""
    while True:
        request = types.ListSubscriptionsRequest.pb()(project="projects/p", page_size=2, page_token=token)
        page = await client.call("Subscriber", "ListSubscriptions", request, types.ListSubscriptionsResponse)
        listed += [each.name for each in page.subscriptions]
        if not (token := page.next_page_token):
            break
    assert listed == names
    request = types.ListTopicSubscriptionsRequest.pb()(topic=TOPIC)
    of_topic = await client.call("Publisher", "ListTopicSubscriptions", request, types.ListTopicSubscriptionsResponse)
    assert list(of_topic.subscriptions) == names
    topics = await client.call(
        "Publisher", "ListTopics", types.ListTopicsRequest.pb()(project="projects/p2"), types.ListTopicsResponse
    )
    assert [each.name for each in topics.topics] == ["projects/p2/topics/other"]


async def test_a_deleted_topic_leaves_its_subscriptions_with_what_they_have(client: RawClient) -> None:
    await client.create()
    await client.publish(b"1")
    await client.call("Publisher", "DeleteTopic", types.DeleteTopicRequest.pb()(topic=TOPIC))
    assert (await _get(client)).topic == "_deleted-topic_"
    assert len(await client.pull()) == 1
    assert (await refused(client.publish(b"2"))).code() == grpc.StatusCode.NOT_FOUND


async def test_a_deleted_subscription_is_not_found(client: RawClient) -> None:
    await client.create()
    request = types.DeleteSubscriptionRequest.pb()(subscription=SUBSCRIPTION)
    await client.call("Subscriber", "DeleteSubscription", request)
    for call in (_get(client), client.pull(), client.call("Subscriber", "DeleteSubscription", request)):
        assert (await refused(call)).code() == grpc.StatusCode.NOT_FOUND
    await client.create()
    assert not await client.pull()


async def test_a_method_the_emulator_does_not_have_is_unimplemented(client: RawClient) -> None:
    error = await refused(client.call("Subscriber", "CreateSnapshot", types.CreateSnapshotRequest.pb()()))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED
