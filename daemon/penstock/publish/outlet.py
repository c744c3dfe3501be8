"""All writes of the daemon."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pyarrow as pa

from penstock.clock import Clock
from penstock.contract import MAX_PUTS, topic_path
from penstock.contract.publishing import LONGEST_TIMEOUT_S, ON_INVALID, PutRequest
from penstock.errors import Draining, InvalidRequest, ServiceUnavailable
from penstock.publish.flow import Flow
from penstock.publish.topics import Creator, Topics
from penstock.publish.write import Write
from penstock.pubsub import PubSubChannel
from penstock.settings import PublishSettings


class Outlet:
    """Satisfies `flight.Outlet`. `spawn` starts a task that somebody owns."""

    def __init__(
        self,
        channel: PubSubChannel,
        creator: Creator,
        settings: PublishSettings,
        *,
        clock: Clock,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._rng = random.Random()  # noqa: S311 - jitter, not secrets
        self._flow = Flow(max_requests=settings.max_requests, max_bytes=settings.memory_mb << 20)
        self._topics = Topics(channel, creator, settings.topics, clock, self._rng)
        self._clock = clock
        self._spawn = spawn
        self._running: dict[Write, asyncio.Task[None]] = {}
        self._draining = False

    def __len__(self) -> int:
        """Writes that are not over."""
        return len(self._running)

    async def open(self, request: PutRequest, schema: pa.Schema) -> Write:
        """Begin a write. Raises `PenstockError`."""
        if self._draining:
            raise Draining("the daemon is shutting down and takes no new writes")
        if len(self._running) >= MAX_PUTS:
            raise ServiceUnavailable(
                f"this daemon has {MAX_PUTS} writes already: run fewer tasks at a time, or more daemons"
            )
        _check(request)
        write = Write(request, topics=self._topics, flow=self._flow, clock=self._clock, rng=self._rng)
        self._running[write] = task = self._spawn(write.run())
        task.add_done_callback(lambda _: self._running.pop(write))
        try:
            await write.open(schema)
        except BaseException:
            write.cancel()
            raise
        return write

    def drain(self) -> None:
        """Take no new writes."""
        self._draining = True

    def close(self) -> None:
        """End the writes that still run: their callers get an error."""
        for write in list(self._running):
            write.cancel(Draining("the daemon was shut down before the write was done: write its rows again"))

    def figures(self) -> dict[str, int]:
        """Of all writes together."""
        return {"writes": len(self), "held_bytes": self._flow.held_bytes, "requests": self._flow.requests}

    def statistics(self) -> dict[str, Any]:
        """The same, and topic → figures."""
        return {**self.figures(), "topics": self._topics.statistics()}


def _check(request: PutRequest) -> None:
    for name in (request.topic, request.dead_letter_topic):
        if name is not None:
            topic_path(name)
    for what, value in (("flushTimeout", request.flush_timeout_s), ("retryTimeout", request.retry_timeout_s)):
        if not 0 < value <= LONGEST_TIMEOUT_S:
            raise InvalidRequest(f"{what}={value}: more than 0 and at most {LONGEST_TIMEOUT_S:g} seconds")
    if request.on_invalid not in ON_INVALID:
        raise InvalidRequest(f"onInvalid={request.on_invalid!r}: one of {', '.join(ON_INVALID)}")
    if (request.on_invalid == "deadletter") != (request.dead_letter_topic is not None):
        raise InvalidRequest("onInvalid=deadletter and deadLetterTopic go together")
