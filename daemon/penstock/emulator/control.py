"""The control plane: handlers for topics and subscriptions with the proto classes of google-cloud-pubsub."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf import empty_pb2
from google.pubsub_v1 import types

from penstock.emulator.broker import Broker
from penstock.emulator.refusal import invalid

Call = tuple[Callable[[Any], Any], Any]
"""A plain function from request to reply (it may raise `Refused`), and the request's proto class."""

_MAX_PAGE = 1000


def _pb(kind: Any) -> Any:
    return kind.pb()


def publisher_calls(broker: Broker) -> dict[str, Call]:
    """All of the service `google.pubsub.v1.Publisher` but Publish and snapshots."""

    def create(request: Any) -> Any:
        return broker.create_topic(_copy(request)).proto

    def get(request: Any) -> Any:
        return broker.topic(request.topic).proto

    def update(request: Any) -> Any:
        changed = _merged(request.update_mask, request.topic, broker.topic(request.topic.name).proto)
        broker.update_topic(changed)
        return changed

    def delete(request: Any) -> Any:
        broker.delete_topic(request.topic)
        return empty_pb2.Empty()

    def list_(request: Any) -> Any:
        names = _in_project(broker.topics, request.project)
        page, token = _page(names, request)
        return _pb(types.ListTopicsResponse)(topics=[broker.topics[name].proto for name in page], next_page_token=token)

    def list_subscriptions(request: Any) -> Any:
        page, token = _page(sorted(broker.topic(request.topic).subscriptions), request)
        return _pb(types.ListTopicSubscriptionsResponse)(subscriptions=page, next_page_token=token)

    def list_snapshots(request: Any) -> Any:
        broker.topic(request.topic)
        return _pb(types.ListTopicSnapshotsResponse)()

    def detach(request: Any) -> Any:
        broker.detach_subscription(request.subscription)
        return _pb(types.DetachSubscriptionResponse)()

    return {
        "CreateTopic": (create, _pb(types.Topic)),
        "GetTopic": (get, _pb(types.GetTopicRequest)),
        "UpdateTopic": (update, _pb(types.UpdateTopicRequest)),
        "DeleteTopic": (delete, _pb(types.DeleteTopicRequest)),
        "ListTopics": (list_, _pb(types.ListTopicsRequest)),
        "ListTopicSubscriptions": (list_subscriptions, _pb(types.ListTopicSubscriptionsRequest)),
        "ListTopicSnapshots": (list_snapshots, _pb(types.ListTopicSnapshotsRequest)),
        "DetachSubscription": (detach, _pb(types.DetachSubscriptionRequest)),
    }


def subscriber_calls(broker: Broker) -> dict[str, Call]:
    """Of the service `google.pubsub.v1.Subscriber` what is about resources, and Seek (to a time)."""

    def create(request: Any) -> Any:
        return broker.create_subscription(_copy(request)).proto

    def get(request: Any) -> Any:
        return broker.subscribed(request.subscription).proto

    def update(request: Any) -> Any:
        stored = broker.subscribed(request.subscription.name).proto
        changed = _merged(request.update_mask, request.subscription, stored)
        broker.update_subscription(changed)
        return changed

    def delete(request: Any) -> Any:
        broker.delete_subscription(request.subscription)
        return empty_pb2.Empty()

    def list_(request: Any) -> Any:
        page, token = _page(_in_project(broker.subscriptions, request.project), request)
        protos = [broker.subscriptions[name].proto for name in page]
        return _pb(types.ListSubscriptionsResponse)(subscriptions=protos, next_page_token=token)

    def seek(request: Any) -> Any:
        broker.subscribed(request.subscription)
        if request.WhichOneof("target") != "time":
            raise invalid("This emulator seeks to a time only; it has no snapshots.")
        broker.seek(request.subscription, request.time.ToMicroseconds())
        return _pb(types.SeekResponse)()

    return {
        "CreateSubscription": (create, _pb(types.Subscription)),
        "GetSubscription": (get, _pb(types.GetSubscriptionRequest)),
        "UpdateSubscription": (update, _pb(types.UpdateSubscriptionRequest)),
        "DeleteSubscription": (delete, _pb(types.DeleteSubscriptionRequest)),
        "ListSubscriptions": (list_, _pb(types.ListSubscriptionsRequest)),
        "Seek": (seek, _pb(types.SeekRequest)),
    }


def _copy(proto: Any) -> Any:
    copied = type(proto)()
    copied.CopyFrom(proto)
    return copied


def _merged(mask: Any, wanted: Any, stored: Any) -> Any:
    """The stored resource with the masked fields replaced. Raises `Refused`."""
    if not mask.paths:
        raise invalid("The update_mask in the request must be set and must contain a non-empty paths list.")
    if not mask.IsValidForDescriptor(stored.DESCRIPTOR):
        raise invalid(f"Invalid update_mask provided in the request: {', '.join(mask.paths)}.")
    changed = _copy(stored)
    mask.MergeMessage(wanted, changed, replace_message_field=True, replace_repeated_field=True)
    return changed


def _in_project(names: Iterable[str], project: str) -> list[str]:
    return sorted(name for name in names if name.startswith(f"{project}/"))


def _page(names: list[str], request: Any) -> tuple[list[str], str]:
    """Names after the page token (which is the last name of the page before), and the next token."""
    after = [name for name in names if name > request.page_token]
    page = after[: request.page_size or _MAX_PAGE]
    return page, page[-1] if len(page) < len(after) else ""
