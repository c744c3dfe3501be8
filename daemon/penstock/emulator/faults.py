"""Faults on demand: what the next calls suffer. Off unless the emulator was started with `faults`."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
from collections import Counter, deque
from pathlib import Path
from typing import Any

import grpc

from penstock.emulator.broker import Broker
from penstock.emulator.refusal import Refused, invalid

# Field 1 as a length-delimited value that promises far more bytes than follow: no parser takes it.
UNDECODABLE = b"\x0a\xff\xff\xff\x7fpenstock"


@dataclasses.dataclass(slots=True)
class _Planned:
    """What waits for the calls of one method."""

    failures: deque[Refused] = dataclasses.field(default_factory=deque)
    delay_s: float = 0.0
    delayed_calls: int = 0
    calls: int = 0


class Faults:
    """The faults that were asked for. Each method says what it did with plain values, for JSON.

    `fail`, `delay` and `drop_acks` count calls; acknowledgements and modacks on streams count as calls of
    Acknowledge and ModifyAckDeadline as far as `drop_acks` goes.
    """

    def __init__(self, broker: Broker, port: int = 0) -> None:
        self.port = port
        self.methods: set[str] = set()
        """Names of all methods that the server has."""
        self._broker = broker
        self._planned: dict[str, _Planned] = {}
        """By method, and for Publish also by topic."""
        self._dropped: dict[str, int] = {}
        self._dropped_ack_ids: Counter[str] = Counter()

    # --- asked for by tests -----------------------------------------------------------------------------------------

    def fail(
        self,
        method: str,
        code: str,
        times: int = 1,
        message: str = "a fault that was asked for",
        topic: str | None = None,
    ) -> None:
        """The next calls of a method end with this gRPC code (by name), before they do anything.

        `topic`: those of Publish to this one only.
        """
        status = _status(code)
        self._asked(method, topic).failures.extend(Refused(status, message) for _ in range(times))

    def delay(self, method: str, delay_s: float, times: int = 1, topic: str | None = None) -> None:
        """The next calls of a method (or of Publish to one topic) wait first."""
        planned = self._asked(method, topic)
        planned.delay_s, planned.delayed_calls = delay_s, times

    def cut_streams(self, subscription: str | None = None, code: str = "UNAVAILABLE") -> int:
        """End all open pull streams (of one subscription) with a code; says how many."""
        status = _status(code)
        streams = [
            stream
            for name, found in self._broker.subscriptions.items()
            if subscription in (None, name)
            for stream in found.subscription.streams.values()
        ]
        for stream in streams:
            stream.end(Refused(status, "a cut that was asked for") if code != "OK" else None)
        return len(streams)

    def cut_connections(self) -> int:
        """Shut every TCP connection that clients have to the emulator, without a word; says how many."""
        cut = 0
        for link in Path("/proc/self/fd").iterdir():
            connection = _connection(int(link.name), self.port)
            if connection is not None:
                with connection:
                    connection.shutdown(socket.SHUT_RDWR)
                cut += 1
        return cut

    def drop_acks(self, subscription: str, times: int = 1) -> None:
        """The next requests with acks or modacks do nothing, and are answered OK.

        Not so on exactly-once subscriptions, whose OK is a promise: there they are UNAVAILABLE.
        """
        self._dropped[subscription] = times

    def redeliver(self, subscription: str, messages: int = 1) -> int:
        """Deliver messages that are out and not acknowledged once more, now; says how many there were."""
        return self._broker.subscription(subscription).redeliver(messages, self._broker.clock())

    def garble(self, subscription: str, responses: int = 1) -> int:
        """Each open stream of the subscription gets undecodable responses next; says how many streams."""
        streams = self._broker.subscription(subscription).streams
        for stream in streams.values():
            for _ in range(responses):
                stream.say(UNDECODABLE)
        return len(streams)

    def clear(self, topic: str | None = None) -> None:
        """Forget what was planned and has not happened yet; `topic`: for Publish to this one only."""
        if topic is not None:
            self._planned.pop(topic, None)
            return
        self._planned.clear()
        self._dropped.clear()

    def statistics(self, subscription: str) -> dict[str, Any]:
        """Counts of a subscription, its open streams, and the calls the emulator has had so far by method."""
        found = self._broker.subscribed(subscription).subscription
        return {
            **found.statistics(),
            "dropped_ack_ids": self._dropped_ack_ids[subscription],
            "stream_ids": sorted(found.streams),
            "client_ids": sorted({stream.client_id for stream in found.streams.values()}),
            "calls": {method: planned.calls for method, planned in self._planned.items() if planned.calls},
        }

    # --- asked by handlers ------------------------------------------------------------------------------------------

    async def before(self, method: str) -> None:
        """Suffer what is planned for this call. Raises `Refused`; safe to cancel."""
        planned = self._plan(method)
        planned.calls += 1
        await _suffer(planned)

    async def before_publish(self, topic: str) -> None:
        """Suffer what is planned for Publish to this topic, after `before`. Raises `Refused`; safe to cancel."""
        if (planned := self._planned.get(topic)) is not None:
            await _suffer(planned)

    def swallows_acks(self, subscription: str, ack_ids: int) -> bool:
        """Whether this request with so many acks or modacks is to do nothing."""
        if not (left := self._dropped.get(subscription, 0)):
            return False
        self._dropped[subscription] = left - 1
        self._dropped_ack_ids[subscription] += ack_ids
        return True

    def _asked(self, method: str, topic: str | None) -> _Planned:
        if method not in self.methods:
            raise invalid(f"{method!r} is no method; there are {', '.join(sorted(self.methods))}.")
        if topic is not None and method != "Publish":
            raise invalid(f"{method} has no topic: only faults of Publish may name one.")
        return self._plan(method if topic is None else topic)

    def _plan(self, method: str) -> _Planned:
        return self._planned.setdefault(method, _Planned())


async def _suffer(planned: _Planned) -> None:
    if planned.delayed_calls:
        planned.delayed_calls -= 1
        await asyncio.sleep(planned.delay_s)
    if planned.failures:
        raise planned.failures.popleft()


def _status(code: str) -> grpc.StatusCode:
    try:
        return grpc.StatusCode[code]
    except KeyError as error:
        raise invalid(f"{code!r} is no gRPC code; write e.g. UNAVAILABLE.") from error


def _connection(descriptor: int, port: int) -> socket.socket | None:
    """A second handle on an accepted TCP connection of ours, if the descriptor is one."""
    try:
        connection = socket.socket(fileno=os.dup(descriptor))
    except OSError:
        return None
    try:
        if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.getsockname()[1] == port:
            connection.getpeername()
            return connection
    except OSError:
        pass
    connection.close()
    return None
