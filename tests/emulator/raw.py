"""A raw client for the emulator's tests: the service's protos over a plain channel, and nothing that helps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

import grpc
from google.pubsub_v1 import types

TOPIC = "projects/p/topics/readings"
SUBSCRIPTION = "projects/p/subscriptions/readings"
TIMEOUT_S = 10.0

StreamingPullRequest = types.StreamingPullRequest.pb()
StreamingPullResponse = types.StreamingPullResponse.pb()
Subscription = types.Subscription.pb()
Topic = types.Topic.pb()


class ManualClock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class RawClient:
    """Calls by name; replies are protos."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    async def call(self, service: str, method: str, request: Any, reply: Any = None) -> Any:
        call = self.channel.unary_unary(
            f"/google.pubsub.v1.{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reply.pb().FromString if reply is not None else None,
        )
        return await call(request, timeout=TIMEOUT_S)

    async def create(self, topic: str = TOPIC, subscription: str = SUBSCRIPTION, **settings: Any) -> None:
        try:
            await self.call("Publisher", "CreateTopic", Topic(name=topic))
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.ALREADY_EXISTS:
                raise
        await self.call("Subscriber", "CreateSubscription", Subscription(name=subscription, topic=topic, **settings))

    async def publish(self, *messages: Any, topic: str = TOPIC) -> list[str]:
        """Messages are bytes, or dicts of the fields of PubsubMessage."""
        fields = [message if isinstance(message, dict) else {"data": message} for message in messages]
        request = types.PublishRequest.pb()(topic=topic, messages=[types.PubsubMessage.pb()(**each) for each in fields])
        return list((await self.call("Publisher", "Publish", request, types.PublishResponse)).message_ids)

    async def pull(self, most: int = 1000, subscription: str = SUBSCRIPTION) -> list[Any]:
        request = types.PullRequest.pb()(subscription=subscription, max_messages=most, return_immediately=True)
        return list((await self.call("Subscriber", "Pull", request, types.PullResponse)).received_messages)

    async def ack(self, *ack_ids: str, subscription: str = SUBSCRIPTION) -> None:
        request = types.AcknowledgeRequest.pb()(subscription=subscription, ack_ids=ack_ids)
        await self.call("Subscriber", "Acknowledge", request)

    async def modify(self, deadline_s: int, *ack_ids: str, subscription: str = SUBSCRIPTION) -> None:
        request = types.ModifyAckDeadlineRequest.pb()(
            subscription=subscription, ack_ids=ack_ids, ack_deadline_seconds=deadline_s
        )
        await self.call("Subscriber", "ModifyAckDeadline", request)

    def stream(self, **first: Any) -> RawStream:
        """Open a StreamingPull whose first request has these fields (and the usual ones)."""
        return RawStream(self.channel, {"subscription": SUBSCRIPTION, "stream_ack_deadline_seconds": 60} | first)


class RawStream:
    """One StreamingPull call; `messages` has what came so far, `responses` every response."""

    def __init__(self, channel: grpc.aio.Channel, first: dict[str, Any]) -> None:
        self._call = channel.stream_stream(
            "/google.pubsub.v1.Subscriber/StreamingPull",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=StreamingPullResponse.FromString,
        )()
        self._first = StreamingPullRequest(**first)
        self._opened = False
        self.responses: list[Any] = []
        self.messages: list[Any] = []

    async def __aenter__(self) -> Self:
        await self.say_first()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._call.cancel()

    async def say_first(self) -> None:
        await self._call.write(self._first)

    async def say(self, **fields: Any) -> None:
        await self._call.write(StreamingPullRequest(**fields))

    async def half_close(self) -> None:
        """Say that nothing more will be said."""
        await self._call.done_writing()

    async def response(self) -> Any:
        """The next response. Raises `AioRpcError` when the server ends the call otherwise than with OK."""
        read = await asyncio.wait_for(self._call.read(), TIMEOUT_S)
        if read is grpc.aio.EOF:
            raise EOFError
        self.responses.append(read)
        self.messages.extend(read.received_messages)
        return read

    async def receive(self, count: int) -> list[Any]:
        """Wait until so many messages have come in all, and give the newest of them."""
        before = len(self.messages)
        while len(self.messages) < count:
            await self.response()
        return self.messages[before:]

    async def failure(self) -> grpc.aio.AioRpcError:
        """Wait for the server to end the call with an error."""
        while True:
            try:
                await self.response()
            except grpc.aio.AioRpcError as error:
                return error


async def refused(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    """The error of a call that must fail."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call succeeded")


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that becomes true by itself."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110  # the state of a server has no event
            await asyncio.sleep(0.01)


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[RawClient]:
    """A client with a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield RawClient(channel)
