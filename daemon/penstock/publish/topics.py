"""The topics that writes use: whether they are allowed, created where asked for, and the figures of each."""

from __future__ import annotations

import bisect
import fnmatch
import functools
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from penstock.clock import Clock
from penstock.contract import topic_path
from penstock.errors import TopicNotAllowed
from penstock.pubsub import Flood, Gate, PubSubChannel, TopicCalls
from penstock.telemetry import events

LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the histogram: from a server on this machine to a call's deadline."""

REMEMBERED = 1000
"""Topics that are kept when no write uses them. A column of topics may bring any number."""


class Creator(Protocol):
    """Makes topics."""

    async def create_topic(self, name: str) -> bool:
        """Whether it had to be made. Raises `PublishFailed`, `ServiceUnavailable`."""


@dataclass
class TopicFigures:
    """Counts since the start; `in_flight_…` are those of now. `latency`: calls by `LATENCY_S`, the last are slower."""

    messages: int = 0
    bytes: int = 0
    requests: int = 0
    failed_messages: int = 0
    in_flight_requests: int = 0
    in_flight_messages: int = 0
    took_s: float = 0.0
    latency: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_S) + 1))

    def confirmed(self, messages: int, size_bytes: int, took_s: float) -> None:
        """One request was."""
        self.messages += messages
        self.bytes += size_bytes
        self.requests += 1
        self.took_s += took_s
        self.latency[bisect.bisect_left(LATENCY_S, took_s)] += 1


class Topic:
    """One topic: its calls, and what is known of it."""

    def __init__(self, channel: PubSubChannel, name: str, clock: Clock, rng: random.Random) -> None:
        self.name = name
        self.calls = TopicCalls(channel, name, Gate("topic", name, clock=clock, rng=rng))
        self.figures = TopicFigures()
        self.retried = Flood(clock, functools.partial(_say_retried, name))
        self.exists = False
        self.writes = 0

    def statistics(self) -> dict[str, Any]:
        """For `status` and metrics. `latency`: upper bound → calls up to it."""
        bounds = [*(str(bound) for bound in LATENCY_S), "+Inf"]
        latency = list(zip(bounds, itertools.accumulate(self.figures.latency), strict=True))
        gate = self.calls.gate
        return {
            **vars(self.figures),
            "latency": latency,
            "breaker": gate.figures(),
            "trouble": gate.trouble(),
        }


class Topics:
    """By full name. `allowed`: names and patterns of them."""

    def __init__(
        self, channel: PubSubChannel, creator: Creator, allowed: Sequence[str], clock: Clock, rng: random.Random
    ) -> None:
        self._channel = channel
        self._creator = creator
        self._allowed = allowed
        self._clock = clock
        self._rng = rng
        self._known: dict[str, Topic] = {}

    async def ready(self, name: str, *, create: bool) -> Topic:
        """The topic, for a write that calls `leave` when it ends. Raises `TopicNotAllowed`, and what `Creator` does."""
        found = self._known.get(name)
        if found is None:
            path = topic_path(name)
            if not any(fnmatch.fnmatchcase(path, pattern) for pattern in self._allowed):
                raise TopicNotAllowed(
                    f"this daemon does not publish to {path}; it publishes to {', '.join(self._allowed) or 'none'}: "
                    "add it to [publish] topics in the daemon's settings"
                )
            found = Topic(self._channel, path, self._clock, self._rng)
        if create and not found.exists:
            if await self._creator.create_topic(name):
                events.TopicCreated(topic=name).emit()
            found.exists = True
        found = self._known.setdefault(name, found)
        found.writes += 1
        return found

    def leave(self, topic: Topic) -> None:
        """A write has ended."""
        topic.writes -= 1
        if len(self._known) > REMEMBERED and not topic.writes:
            del self._known[topic.name]

    def statistics(self) -> dict[str, dict[str, Any]]:
        """Topic → figures."""
        return {name: topic.statistics() for name, topic in self._known.items()}


def _say_retried(topic: str, requests: int, code: str, error: str) -> None:
    events.PublishRetried(topic=topic, requests=requests, code=code, error=error).emit()
