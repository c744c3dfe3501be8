"""Topics and subscriptions by name, and the way of a message from the one to the others. Plain decisions, no I/O."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.clock import Clock
from penstock.emulator import config
from penstock.emulator.refusal import Refused, already_exists, detached, invalid, not_found
from penstock.emulator.segment import Segment, check_limits, segment
from penstock.emulator.subscription import Subscription

DELETED_TOPIC = "_deleted-topic_"
"""What a subscription's topic is called when it was deleted."""

# The service's message IDs are numbers of about this length.
_FIRST_MESSAGE_ID = 10_000_000_000_000_000

# https://cloud.google.com/pubsub/docs/pubsub-basics#resource_names
_NAME = re.compile(r"projects/[^/\s]+/(topics|subscriptions)/(?!goog)[A-Za-z][A-Za-z0-9\-_.~+%]{2,254}")


@dataclasses.dataclass(slots=True, eq=False)
class Topic:
    """A topic, its proto as clients see it, and its subscriptions by name."""

    proto: Any
    subscriptions: dict[str, Subscription] = dataclasses.field(default_factory=dict)

    @property
    def retention_s(self) -> float:
        """For how long the topic itself keeps messages; 0 if it does not."""
        return float(self.proto.message_retention_duration.seconds)


@dataclasses.dataclass(slots=True, eq=False)
class Subscribed:
    """A subscription and its proto as clients see it."""

    proto: Any
    subscription: Subscription


class Broker:
    """All state of the emulator.

    `clock` counts seconds for deadlines, `wall` gives seconds since 1970 for publish times.
    """

    def __init__(self, clock: Clock, wall: Callable[[], float]) -> None:
        self.clock = clock
        self.topics: dict[str, Topic] = {}
        self.subscriptions: dict[str, Subscribed] = {}
        self._wall = wall
        self._message_ids = itertools.count(_FIRST_MESSAGE_ID)
        self._last_us = 0

    # --- messages ---------------------------------------------------------------------------------------------------

    def publish(self, topic: str, messages: pa.StructArray, request_bytes: int) -> Segment:
        """Give the messages IDs and a time, and every subscription its share. Raises `Refused`."""
        found = self.topic(topic)
        check_limits(messages, request_bytes)
        return self._publish(found, messages)

    def subscription(self, name: str) -> Subscription:
        """The one to deliver from. Raises `Refused`: NOT_FOUND, or FAILED_PRECONDITION when it is detached."""
        found = self.subscribed(name)
        if found.proto.detached:
            raise detached(name)
        return found.subscription

    def tick(self) -> None:
        """Whatever time brings."""
        now, wall_us = self.clock(), self._wall_us()
        for found in [*self.subscriptions.values()]:
            found.subscription.tick(now, wall_us)

    def seek(self, name: str, publish_us: int) -> None:
        """Raises `Refused`."""
        self.subscription(name).seek(publish_us, self._wall_us())

    # --- resources --------------------------------------------------------------------------------------------------

    def topic(self, name: str) -> Topic:
        """Raises `Refused`."""
        if (found := self.topics.get(name)) is None:
            raise not_found(name) if _kind(name) == "topics" else _bad_name("topic", name)
        return found

    def subscribed(self, name: str) -> Subscribed:
        """Raises `Refused`."""
        if (found := self.subscriptions.get(name)) is None:
            raise not_found(name) if _kind(name) == "subscriptions" else _bad_name("subscription", name)
        return found

    def create_topic(self, proto: Any) -> Topic:
        """Raises `Refused`."""
        if _kind(proto.name) != "topics":
            raise _bad_name("topic", proto.name)
        if proto.name in self.topics:
            raise already_exists(proto.name)
        created = self.topics[proto.name] = Topic(proto)
        return created

    def update_topic(self, proto: Any) -> None:
        """Put a changed proto in place."""
        found = self.topic(proto.name)
        found.proto = proto
        for subscription in found.subscriptions.values():
            subscription.topic_retention_s = found.retention_s

    def delete_topic(self, name: str) -> None:
        """Its subscriptions live on without. Raises `Refused`."""
        found = self.topic(name)
        del self.topics[name]
        for subscription_name in found.subscriptions:
            self.subscriptions[subscription_name].proto.topic = DELETED_TOPIC

    def create_subscription(self, proto: Any) -> Subscribed:
        """Raises `Refused`."""
        if _kind(proto.name) != "subscriptions":
            raise _bad_name("subscription", proto.name)
        topic = self.topic(proto.topic)
        if proto.name in self.subscriptions:
            raise already_exists(proto.name)
        config.complete(proto)
        read = config.read_config(proto)
        name, project = proto.name, proto.name.split("/")[1]

        def dead_letters(messages: pa.StructArray, attempts: NDArray[np.int64]) -> bool:
            return self._dead_letter(name, project, messages, attempts)

        subscription = Subscription(name, read, dead_letters)
        subscription.topic_retention_s = topic.retention_s
        topic.subscriptions[name] = subscription
        created = self.subscriptions[name] = Subscribed(proto, subscription)
        return created

    def update_subscription(self, proto: Any) -> None:
        """Put a changed proto in place. Raises `Refused`: some things cannot change."""
        found = self.subscribed(proto.name)
        config.complete(proto)
        for unchangeable in ("topic", "filter", "enable_message_ordering"):
            if getattr(proto, unchangeable) != getattr(found.proto, unchangeable):
                raise invalid(
                    f"Invalid update_mask provided in the UpdateSubscriptionRequest: {unchangeable} cannot be changed."
                )
        found.subscription.config = config.read_config(proto)
        found.proto = proto

    def delete_subscription(self, name: str) -> None:
        """Its streams end with NOT_FOUND. Raises `Refused`."""
        found = self.subscribed(name)
        del self.subscriptions[name]
        if (topic := self.topics.get(found.proto.topic)) is not None:
            topic.subscriptions.pop(name, None)
        for stream in found.subscription.streams.values():
            stream.end(not_found(name))

    def detach_subscription(self, name: str) -> None:
        """No more messages for it, and those it had are gone; its streams end. Raises `Refused`."""
        found = self.subscribed(name)
        if (topic := self.topics.get(found.proto.topic)) is not None:
            topic.subscriptions.pop(name, None)
        found.proto.detached = True
        found.subscription.drop_all()
        for stream in found.subscription.streams.values():
            stream.end(detached(name))

    # --- within -----------------------------------------------------------------------------------------------------

    def _publish(self, topic: Topic, messages: pa.StructArray) -> Segment:
        first = next(self._message_ids)
        self._message_ids = itertools.count(first + len(messages))
        published = segment(messages, first, self._wall_us())
        for subscription in topic.subscriptions.values():
            subscription.publish(published)
        return published

    def _wall_us(self) -> int:
        """Never goes back, so that publish times ascend in every ledger."""
        self._last_us = max(self._last_us, int(self._wall() * 1e6))
        return self._last_us

    def _dead_letter(self, name: str, project: str, messages: pa.StructArray, attempts: NDArray[np.int64]) -> bool:
        """Publish dead messages on the dead-letter topic, with the attributes that the service adds.

        False if there is no such topic: they stay with the subscription then.
        """
        policy = self.subscribed(name).subscription.config.dead_letter
        if policy is None or (topic := self.topics.get(policy.topic)) is None:
            return False
        added = {
            "CloudPubSubDeadLetterSourceSubscription": name.rsplit("/", 1)[-1],
            "CloudPubSubDeadLetterSourceSubscriptionProject": project,
        }
        times = messages.field("publish_time").cast(pa.string())
        attributes = [
            [
                *had,
                *added.items(),
                ("CloudPubSubDeadLetterSourceDeliveryCount", str(attempt)),
                ("CloudPubSubDeadLetterSourceTopicPublishTime", time),
            ]
            for had, attempt, time in zip(
                messages.field("attributes").to_pylist(), attempts.tolist(), times.to_pylist(), strict=True
            )
        ]
        kind = messages.field("attributes").type
        fields = [messages.field("data"), pa.array(attributes, kind), messages.field("ordering_key")]
        self._publish(topic, pa.StructArray.from_arrays(fields, names=["data", "attributes", "ordering_key"]))
        return True


def _kind(name: str) -> str | None:
    match = _NAME.fullmatch(name)
    return match.group(1) if match else None


def _bad_name(kind: str, name: str) -> Refused:
    return invalid(
        f"Invalid resource name given (name={name}): projects/PROJECT/{kind}s/ID is needed, where ID has 3 to 255 "
        "letters, digits and -_.~+%, starts with a letter, and not with goog."
    )
