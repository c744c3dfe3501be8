"""The data plane: handlers that see bytes, one per call; nothing here looks at a message."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock.emulator import wire
from penstock.emulator.broker import Broker
from penstock.emulator.config import MAX_ACK_DEADLINE_S, MIN_ACK_DEADLINE_S
from penstock.emulator.faults import Faults
from penstock.emulator.refusal import Refused, exactly_once_failure, invalid, unavailable
from penstock.emulator.stream import PullStream
from penstock.emulator.subscription import Subscription

# https://cloud.google.com/pubsub/quotas#resource_limits
MAX_ACK_REQUEST_BYTES = 512 * 1024

_INVALID_ACK_ID = "PERMANENT_FAILURE_INVALID_ACK_ID"
# A Pull without messages is answered empty after a while; the service documents no figure.
_PULL_WAIT_S = 10.0
_PULL_MARGIN_S = 0.2
# The next response is made while one is being written; more would only be taken from other streams.
_RESPONSES_AHEAD = 1


class DataPlane:
    """Publish, Pull, StreamingPull and what clients say about messages. Every handler may raise `Refused`."""

    def __init__(self, broker: Broker, faults: Faults) -> None:
        self._broker = broker
        self._faults = faults
        self._stream_numbers = itertools.count(1)

    async def publish(self, raw: bytes, _context: Any) -> bytes:
        """PublishRequest → PublishResponse."""
        request = wire.read_publish(raw)
        await self._faults.before_publish(request.topic)
        return wire.write_published(self._broker.publish(request.topic, request.messages, len(raw)).message_ids)

    async def acknowledge(self, raw: bytes, _context: Any) -> bytes:
        """AcknowledgeRequest → Empty."""
        _check_request_bytes(raw)
        self._settle(wire.read_acknowledge(raw))
        return b""

    async def modify(self, raw: bytes, _context: Any) -> bytes:
        """ModifyAckDeadlineRequest → Empty."""
        _check_request_bytes(raw)
        self._settle(wire.read_modify(raw))
        return b""

    async def pull(self, raw: bytes, context: Any) -> bytes:
        """PullRequest → PullResponse, when there are messages or after some seconds."""
        request = wire.PULL_REQUEST.FromString(raw)
        subscription = self._broker.subscription(request.subscription)
        if request.max_messages <= 0:
            raise invalid("You have passed an invalid value for max_messages: it must be positive.")
        stream = PullStream(next(self._stream_numbers), subscription.config.ack_deadline_s)
        wait_s = 0.0 if request.return_immediately else _PULL_WAIT_S
        if (left_s := context.time_remaining()) is not None:
            wait_s = min(wait_s, left_s - _PULL_MARGIN_S)
        delivery = subscription.take(stream, self._broker.clock(), request.max_messages)
        if delivery is None and wait_s > 0:
            subscription.streams[stream.number] = stream
            try:
                async with asyncio.timeout(wait_s):
                    while delivery is None and not stream.gone.is_set():
                        stream.wake.clear()
                        await stream.wake.wait()
                        delivery = subscription.take(stream, self._broker.clock(), request.max_messages)
            except TimeoutError:
                pass
            finally:
                subscription.streams.pop(stream.number, None)
        if stream.ending is not None:
            raise stream.ending
        if delivery is None:
            return b""
        return wire.write_pull_response(delivery.ack_ids, delivery.messages, delivery.attempts)

    async def streaming_pull(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """One StreamingPull call from its first request to its end. A cancelled call leaves its messages out."""
        first = await anext(aiter(requests), None)
        if first is None:
            raise invalid("The first StreamingPullRequest must name a subscription.")
        request = wire.read_stream_request(first)
        stream, subscription = self._open(request)
        try:
            # So that the call can be ended while its first response is still being written.
            await context.send_initial_metadata(())
            async with asyncio.TaskGroup() as group:
                responses: asyncio.Queue[bytes] = asyncio.Queue(_RESPONSES_AHEAD)
                listening = group.create_task(self._listen(stream, subscription, requests, request))
                delivering = group.create_task(self._deliver(stream, subscription, responses))
                writing = group.create_task(_write(responses, context))
                try:
                    await stream.gone.wait()
                    if stream.ending is None:  # what the client was given before it half-closed still goes out
                        await asyncio.wait([delivering])
                        await responses.join()
                finally:
                    for task in (listening, delivering, writing):
                        task.cancel()
        finally:
            subscription.detach(stream)
        if stream.ending is not None:
            raise stream.ending

    # --- StreamingPull ----------------------------------------------------------------------------------------------

    def _open(self, request: wire.StreamRequest) -> tuple[PullStream, Subscription]:
        if not request.subscription:
            raise invalid("The first StreamingPullRequest must name a subscription.")
        subscription = self._broker.subscription(request.subscription)
        _check_stream_deadline(request.stream_ack_deadline_s)
        stream = PullStream(
            number=next(self._stream_numbers),
            ack_deadline_s=request.stream_ack_deadline_s,
            max_rows=request.max_outstanding_rows,
            max_bytes=request.max_outstanding_bytes,
            client_id=request.client_id,
            protocol_version=request.protocol_version,
            opened_at=self._broker.clock(),
        )
        subscription.attach(stream)
        return stream, subscription

    async def _deliver(self, stream: PullStream, subscription: Subscription, responses: asyncio.Queue[bytes]) -> None:
        """Put into `responses` what there is for the stream, while there is room, until the stream is to end."""
        config = subscription.config
        tail = wire.subscription_properties(exactly_once=config.exactly_once, ordering=config.ordering)
        stream.say(tail)
        while not stream.gone.is_set():
            if subscription.config is not config:
                config = subscription.config
                tail = wire.subscription_properties(exactly_once=config.exactly_once, ordering=config.ordering)
            stream.wake.clear()
            if stream.replies:
                await responses.put(stream.replies.popleft())
            elif (found := subscription.take(stream, self._broker.clock())) is not None:
                await responses.put(wire.write_stream_response(found.ack_ids, found.messages, found.attempts, tail))
            else:
                await stream.wake.wait()

    async def _listen(
        self, stream: PullStream, subscription: Subscription, requests: AsyncIterator[bytes], first: wire.StreamRequest
    ) -> None:
        """Take in what the client says until it half-closes; what is wrong ends the stream."""
        try:
            self._hear(stream, subscription, first)
            async for raw in requests:
                if raw:
                    request = wire.read_stream_request(raw)
                    _check_later_request(request)
                    self._hear(stream, subscription, request)
                if (not raw or request.is_keepalive) and stream.protocol_version >= 1:
                    stream.say(wire.HEARTBEAT)
        except Refused as refused:
            stream.end(refused)
        stream.end()

    def _hear(self, stream: PullStream, subscription: Subscription, request: wire.StreamRequest) -> None:
        if len(request.modify_ack_ids) != len(request.modify_deadlines_s):
            raise invalid(
                "The modify_deadline_seconds and modify_deadline_ack_ids fields must have the same number of elements."
            )
        if request.stream_ack_deadline_s:
            _check_stream_deadline(request.stream_ack_deadline_s)
            stream.ack_deadline_s = request.stream_ack_deadline_s
        now, confirms = self._broker.clock(), subscription.config.exactly_once
        if len(request.modify_ack_ids):
            _check_deadlines(request.modify_deadlines_s)
            read = subscription.ack_ids.read(request.modify_ack_ids)
            if not self._faults.swallows_acks(subscription.name, len(request.modify_ack_ids)):
                fine = subscription.modify(read, request.modify_deadlines_s, now)
                if confirms:
                    stream.say(wire.modify_confirmation(*_split(request.modify_ack_ids, fine)))
        if len(request.ack_ids):
            read = subscription.ack_ids.read(request.ack_ids)
            if not self._faults.swallows_acks(subscription.name, len(request.ack_ids)):
                fine = subscription.acknowledge(read, now)
                if confirms:
                    stream.say(wire.ack_confirmation(*_split(request.ack_ids, fine)))

    # --- unary acks -------------------------------------------------------------------------------------------------

    def _settle(self, request: wire.Acks) -> None:
        """An Acknowledge or ModifyAckDeadline. On exactly-once subscriptions it tells which IDs were too late."""
        subscription = self._broker.subscription(request.subscription)
        if not len(request.ack_ids):
            raise invalid("No ack ids specified.")
        if request.deadlines_s is not None:
            _check_deadlines(request.deadlines_s)
        read = subscription.ack_ids.read(request.ack_ids)
        if self._faults.swallows_acks(subscription.name, len(request.ack_ids)):
            if subscription.config.exactly_once:  # its OK is a promise
                raise unavailable("a fault that was asked for: the acknowledgement was lost")
            return
        now = self._broker.clock()
        if request.deadlines_s is None:
            fine = subscription.acknowledge(read, now)
        else:
            fine = subscription.modify(read, request.deadlines_s, now)
        if subscription.config.exactly_once and not fine.all():
            _, failed = _split(request.ack_ids, fine)
            raise exactly_once_failure(dict.fromkeys(failed, _INVALID_ACK_ID))


async def _write(responses: asyncio.Queue[bytes], context: Any) -> None:
    """Write responses as they come. A client that does not read holds `write` up, and so what is put."""
    while True:
        await context.write(await responses.get())
        responses.task_done()


def _split(ack_ids: pa.Array, fine: NDArray[np.bool_]) -> tuple[list[str], list[str]]:
    """Ack IDs that did and that did not work; for exactly-once subscriptions, which are slow on the service too."""
    mask = pa.array(fine)
    return ack_ids.filter(mask).to_pylist(), ack_ids.filter(pc.invert(mask)).to_pylist()


def _check_request_bytes(raw: bytes) -> None:
    if len(raw) > MAX_ACK_REQUEST_BYTES:
        raise invalid(f"Request payload size exceeds the limit: {MAX_ACK_REQUEST_BYTES} bytes.")


def _check_deadlines(deadlines_s: NDArray[np.int64]) -> None:
    if ((deadlines_s < 0) | (deadlines_s > MAX_ACK_DEADLINE_S)).any():
        raise invalid(f"Invalid ack deadline: it must be between 0 and {MAX_ACK_DEADLINE_S} seconds.")


def _check_stream_deadline(deadline_s: int) -> None:
    if not MIN_ACK_DEADLINE_S <= deadline_s <= MAX_ACK_DEADLINE_S:
        raise invalid(
            f"Invalid stream_ack_deadline_seconds of {deadline_s}: it must be between {MIN_ACK_DEADLINE_S} and "
            f"{MAX_ACK_DEADLINE_S}."
        )


def _check_later_request(request: wire.StreamRequest) -> None:
    """What only the first request of a stream may say."""
    if request.subscription:
        raise invalid("The subscription may only be set in the first StreamingPullRequest.")
    if request.client_id:
        raise invalid("The client_id may only be set in the first StreamingPullRequest.")
    if request.max_outstanding_rows or request.max_outstanding_bytes:
        raise invalid(
            "max_outstanding_messages and max_outstanding_bytes may only be set in the first StreamingPullRequest."
        )
