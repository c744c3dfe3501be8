"""The Publish calls of one topic: each is tried once, behind the topic's gate; what the answer means is said."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import math
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import grpc
import grpc.aio
import pyarrow as pa

from penstock.pubsub import wire
from penstock.pubsub.channel import PubSubChannel
from penstock.pubsub.gate import Gate
from penstock.pubsub.turns import Turn

CALL_TIMEOUT_S = 60.0
"""Of one Publish of up to 10 MB; Google's clients give it as long."""


class Means(enum.Enum):
    """What a refusal says of later tries."""

    RETRY = "it may pass"
    RETRY_LATER = "it may pass, and asks for patience"
    MESSAGES = "these messages never will"
    TOPIC = "nothing will go to this topic until somebody mends something"


_PASSING = {
    # Those that Google's own publishers try again, and UNKNOWN, which proxies make of anything.
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNKNOWN,
}


@dataclass(frozen=True)
class Published:
    """Confirmed: an ID for each message. `took_s`: the call alone."""

    message_ids: pa.Array
    took_s: float


@dataclass(frozen=True)
class Refused:
    """Not confirmed: the gRPC code's name, the service's words, and what they mean."""

    code: str
    words: str
    means: Means


class TopicCalls:
    """`lasting`: its callers try again for ever what is refused for good, so that such refusals are an outage as well.

    Messages that are refused for what they are never are one: the service is well.
    """

    def __init__(self, channel: PubSubChannel, topic: str, gate: Gate, *, lasting: bool = False) -> None:
        self.topic = topic
        self.gate = gate
        self._publish = channel.publish()
        self._lasting = lasting

    def __repr__(self) -> str:
        """Such as `<TopicCalls projects/p/topics/t>`."""
        return f"<TopicCalls {self.topic}>"

    async def attempt(
        self,
        encoded: bytes,
        messages: int,
        *,
        pause_s: float = 0.0,
        timeout_s: float | None = None,
        compress: bool = False,
        slot: AbstractAsyncContextManager[None] | None = None,
    ) -> Published | Refused:
        """Wait for `pause_s` and for a turn, and send one PublishRequest of so many messages.

        The call is made inside `slot`. `timeout_s` bounds all of it, `CALL_TIMEOUT_S` the call. Cancelled, it is
        unknown whether they were published.
        """
        until = time.monotonic() + (math.inf if timeout_s is None else timeout_s)
        async with contextlib.AsyncExitStack() as held:
            try:
                async with asyncio.timeout(timeout_s):
                    turn = held.enter_context(await self.gate.turn(pause_s))
                    if slot is not None:
                        await held.enter_async_context(slot)
            except TimeoutError:
                code, words = self.gate.reason()
                return Refused(code or "DEADLINE_EXCEEDED", words or "no call could be made in time", Means.RETRY)
            left_s = max(until - time.monotonic(), 0.001)
            compression = grpc.Compression.Gzip if compress else None
            began = time.perf_counter()
            try:
                answer = await self._publish(encoded, timeout=min(left_s, CALL_TIMEOUT_S), compression=compression)
            except grpc.aio.AioRpcError as error:
                return self._refused(turn, error.code(), error.details() or "")
            turn.worked()
            return _confirmed(answer, messages, time.perf_counter() - began)

    def _refused(self, turn: Turn, code: grpc.StatusCode, words: str) -> Refused:
        means = _means(code)
        failed = means in {Means.RETRY, Means.RETRY_LATER} or (means is Means.TOPIC and self._lasting)
        if failed:
            turn.failed(code.name, f"{words} ({self.topic})")
        else:
            turn.worked()
        return Refused(code.name, words, means)


def _confirmed(answer: bytes, messages: int, took_s: float) -> Published | Refused:
    """Only an ID for each message is a confirmation."""
    try:
        message_ids = wire.decode_published(answer)
    except wire.Undecodable as error:
        return Refused("INTERNAL", f"an answer that is no PublishResponse: {error}", Means.RETRY)
    if len(message_ids) != messages:
        return Refused("INTERNAL", f"{len(message_ids)} message IDs for {messages} messages", Means.RETRY)
    if message_ids.index("").as_py() >= 0:
        return Refused("INTERNAL", "an empty message ID", Means.RETRY)
    return Published(message_ids, took_s)


def _means(code: grpc.StatusCode) -> Means:
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Means.RETRY_LATER
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return Means.MESSAGES
    return Means.RETRY if code in _PASSING else Means.TOPIC
