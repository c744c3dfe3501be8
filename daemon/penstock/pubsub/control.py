"""The control plane: describe and create subscriptions, and create topics, with Google's own clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import grpc
from google.api_core import exceptions as google_errors
from google.api_core.retry import AsyncRetry, if_exception_type
from google.pubsub_v1 import PublisherAsyncClient, SubscriberAsyncClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport
from google.pubsub_v1.types import Subscription

from penstock.contract.actions import CreateSubscription
from penstock.errors import InvalidRequest, PenstockError, PublishFailed, ServiceUnavailable, SubscriptionFailed
from penstock.pubsub.channel import PubSubChannel
from penstock.pubsub.verdict import is_fatal
from penstock.telemetry import events

TIMEOUT_S = 15.0
"""Bound of one control-plane question with its retries; the driver's `open` waits 30 s."""

_ATTEMPT_S = 5.0
_RETRY = AsyncRetry(
    # What the service and the way to it say while they are away; every other answer is one.
    if_exception_type(google_errors.ServiceUnavailable, google_errors.InternalServerError, google_errors.Aborted),
    initial=0.1,
    maximum=2.0,
    timeout=TIMEOUT_S - _ATTEMPT_S,
)


@dataclass(frozen=True)
class SubscriptionInfo:
    """What the service says of a subscription; None where the caller may not look."""

    name: str
    topic: str | None = None
    ordering: bool | None = None
    exactly_once: bool | None = None
    ack_deadline_s: int | None = None
    max_delivery_attempts: int | None = None


class Control:
    """An async context manager around Google's async clients on the daemon's channel."""

    def __init__(self, channel: PubSubChannel) -> None:
        self._channel = channel

    async def __aenter__(self) -> Self:
        """Make the clients; no call yet."""
        self._publisher = PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=self._channel.raw))
        self._client = SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=self._channel.raw))
        return self

    async def __aexit__(self, *_error: object) -> None:
        """The channel is not ours to close."""

    async def describe(self, name: str) -> SubscriptionInfo:
        """Raises `SubscriptionFailed` when it does not exist or is detached.

        Who may consume may not be allowed to look: then the flags stay unknown.
        """
        try:
            found = await self._get(name)
        except google_errors.PermissionDenied as error:
            events.SubscriptionUnseen(subscription=name, error=error.message).emit()
            return SubscriptionInfo(name)
        except google_errors.GoogleAPIError as error:
            raise failed(name, error) from error
        return _info(found)

    async def create(self, name: str, wanted: CreateSubscription) -> SubscriptionInfo:
        """The subscription, created if it does not exist. Raises `InvalidRequest` when it is one of another topic."""
        try:
            found = await self._get(name)
        except google_errors.NotFound:
            return await self._create(name, wanted)
        except google_errors.GoogleAPIError as error:
            raise failed(name, error) from error
        if found.topic != wanted.topic:
            raise InvalidRequest(
                f"subscription {name} belongs to {found.topic}, not to {wanted.topic}: name another subscription, or "
                "leave the topic out"
            )
        return _info(found)

    async def create_topic(self, name: str) -> bool:
        """See `publish.topics.Creator`."""
        try:
            await self._publisher.create_topic(name=name, timeout=_ATTEMPT_S, retry=_RETRY)
        except google_errors.AlreadyExists:
            return False
        except google_errors.GoogleAPIError as error:
            why = failed(name, error)
            kind = ServiceUnavailable if isinstance(why, ServiceUnavailable) else PublishFailed
            code = why.details["service_code"]
            raise kind(f"creating topic {why.message}", topic=name, service_code=code) from error
        return True

    async def _get(self, name: str) -> Subscription:
        return await self._client.get_subscription(subscription=name, timeout=_ATTEMPT_S, retry=_RETRY)

    async def _create(self, name: str, wanted: CreateSubscription) -> SubscriptionInfo:
        request = Subscription(
            name=name,
            topic=wanted.topic,
            ack_deadline_seconds=wanted.ack_deadline_seconds or 0,
            enable_message_ordering=wanted.enable_message_ordering or False,
            enable_exactly_once_delivery=wanted.enable_exactly_once_delivery or False,
            filter=wanted.filter or "",
        )
        try:
            made = await self._client.create_subscription(request=request, timeout=_ATTEMPT_S, retry=_RETRY)
        except google_errors.AlreadyExists:  # another driver was faster
            return await self.create(name, wanted)
        except google_errors.GoogleAPIError as error:
            raise failed(name, error) from error
        events.SubscriptionCreated(subscription=name, topic=wanted.topic).emit()
        return _info(made)


def failed(name: str, error: google_errors.GoogleAPIError) -> PenstockError:
    """Google's error as ours, with its code and its words: after retries in vain, those of the last attempt.

    `SubscriptionFailed` where no later attempt can succeed, `ServiceUnavailable` for the rest.
    """
    if isinstance(error, google_errors.RetryError) and isinstance(error.cause, google_errors.GoogleAPICallError):
        error = error.cause
    if not isinstance(error, google_errors.GoogleAPICallError):
        return ServiceUnavailable(f"{name}: {error}", subscription=name, service_code="UNKNOWN")
    status = error.grpc_status_code or grpc.StatusCode.UNKNOWN
    code = status.name
    kind: type[PenstockError] = ServiceUnavailable
    if is_fatal(status, str(error.message)) or isinstance(error, google_errors.ClientError):
        kind = SubscriptionFailed
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
        kind = ServiceUnavailable
    return kind(f"{name}: {code}: {error.message}", subscription=name, service_code=code)


def _info(found: Subscription) -> SubscriptionInfo:
    if found.detached:
        message = f"{found.name}: FAILED_PRECONDITION: the subscription is detached from its topic"
        raise SubscriptionFailed(message, subscription=found.name, service_code="FAILED_PRECONDITION")
    return SubscriptionInfo(
        found.name,
        topic=found.topic,
        ordering=found.enable_message_ordering,
        exactly_once=found.enable_exactly_once_delivery,
        ack_deadline_s=found.ack_deadline_seconds,
        max_delivery_attempts=found.dead_letter_policy.max_delivery_attempts or None,
    )
