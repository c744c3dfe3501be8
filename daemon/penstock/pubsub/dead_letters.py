"""Publishes dead letters of one subscription: pending until the service has confirmed every one."""

from __future__ import annotations

import asyncio
import functools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc

from penstock.clock import Clock
from penstock.pubsub import wire
from penstock.pubsub.backoff import Backoff
from penstock.pubsub.channel import PubSubChannel
from penstock.pubsub.gate import Gate
from penstock.pubsub.letters import letters
from penstock.pubsub.refusal import Flood
from penstock.pubsub.topic import Means, Published, TopicCalls
from penstock.telemetry import events

RETRY_LAST_S = 60.0
"""A message that the service refuses for what it is, is tried again this rarely: only a person can mend it."""


@dataclass
class DeadLetterStatistics:
    """Counts of messages since the start; `pending` ones are those of now, `refused` counts tries."""

    published: int = 0
    refused: int = 0
    pending: int = 0

    def figures(self) -> dict[str, int]:
        """For `status` and metrics."""
        return asdict(self)


@dataclass(eq=False)
class _Job:
    """One call of the port, until all its rows are confirmed."""

    left: int
    settled: Callable[[], None]


@dataclass(frozen=True)
class _Request:
    """Rows of one PublishRequest, as they were received."""

    job: _Job
    rows: pa.RecordBatch


class DeadLetterQueue:
    """Satisfies `reservoir.ports.DeadLetterSink`. Nothing is sent before `run`.

    One request at a time: dead letters are rare, and where they are many something else is to be mended. Whatever the
    service answers but OK, the messages wait again, at the end of the line.
    """

    def __init__(  # noqa: PLR0913 - composed in one place
        self,
        channel: PubSubChannel,
        subscription: str,
        topic: str,
        *,
        limit: int,
        clock: Clock,
        rng: random.Random | None = None,
        base_backoff_s: float = 0.25,
    ) -> None:
        rng = rng or random.Random()  # noqa: S311 - jitter, not secrets
        self.gate = Gate("publish", subscription, clock=clock, rng=rng)
        self.statistics = DeadLetterStatistics()
        self._subscription = subscription
        self._topic = topic
        self._reason = f"delivered more than {limit} times"
        self._calls = TopicCalls(channel, topic, self.gate, lasting=True)
        self._backoff = Backoff(rng, base_s=base_backoff_s, cap_s=RETRY_LAST_S)
        self._waiting: deque[_Request] = deque()
        self._work = asyncio.Event()
        self._refused = Flood(clock, functools.partial(_say, subscription, topic))

    def __repr__(self) -> str:
        """Such as `<DeadLetterQueue projects/p/topics/dead: 3 pending>`."""
        return f"<DeadLetterQueue {self._topic}: {self.statistics.pending} pending>"

    def publish(self, rows: pa.RecordBatch, settled: Callable[[], None]) -> None:
        """See `DeadLetterSink`."""
        self.statistics.pending += len(rows)
        job = _Job(len(rows), settled)
        rows = _keys_together(rows)
        starts = range(0, len(rows), wire.MAX_PUBLISH_ROWS)
        self._waiting.extend(_Request(job, rows.slice(start, wire.MAX_PUBLISH_ROWS)) for start in starts)
        self._work.set()

    async def run(self) -> None:
        """Publish until cancelled. What is pending then was not acknowledged, so that it comes again."""
        pause_s = 0.0
        while True:
            if not self._waiting:
                self._refused.flush()
                self._work.clear()
                await self._work.wait()
            pause_s = await self._next(pause_s)

    async def _next(self, pause_s: float) -> float:
        """One request; the pause before the next one. Its own frame, so that nothing of it is kept alive while idle."""
        request = self._waiting[0]
        if (same := _of_one_key(request.rows)) < len(request.rows):
            self._split(request, same)
            return 0.0
        dead = letters(request.rows, self._subscription, self._reason)
        part = next(wire.cut_publish(dead))
        if len(part) < len(dead):
            self._split(request, len(part))
            return 0.0
        encoded = wire.encode_publish(self._topic, dead)
        if len(dead) == 1 and len(encoded) > wire.MAX_PUBLISH_BYTES:
            encoded = wire.encode_publish(self._topic, request.rows)  # so large that it has room for itself only
        answer = await self._calls.attempt(encoded, len(dead), pause_s=pause_s)
        if isinstance(answer, Published):
            self._confirm(request)
            return 0.0
        self.statistics.refused += len(dead)
        self._refused.add(len(dead), answer.code, answer.words)
        if answer.means is Means.MESSAGES and len(dead) > 1:  # one is to blame, and must not hold up the others
            self._split(request, len(dead) // 2)
        self._waiting.rotate(-1)
        return self._backoff.next_s()

    def _split(self, request: _Request, rows: int) -> None:
        """Two requests in place of the first one in line."""
        assert self._waiting[0] is request
        self._waiting[0] = _Request(request.job, request.rows.slice(rows))
        self._waiting.appendleft(_Request(request.job, request.rows.slice(0, rows)))

    def _confirm(self, request: _Request) -> None:
        self._waiting.popleft()
        self._backoff.reset()
        count, job = len(request.rows), request.job
        self.statistics.pending -= count
        self.statistics.published += count
        events.DeadLettersPublished(subscription=self._subscription, topic=self._topic, messages=count).emit()
        job.left -= count
        if job.left == 0:
            job.settled()


def _keys_together(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Rows of each ordering key side by side, in their order: fewer requests."""
    keys = rows.column("ordering_key")
    if keys.null_count == len(keys):
        return rows
    return rows.take(pc.sort_indices(keys.fill_null("")))  # stable


def _of_one_key(rows: pa.RecordBatch) -> int:
    """How many rows at the start have the same ordering key: a request may have messages of one only."""
    keys = rows.column("ordering_key").fill_null("")
    other = pc.index(pc.equal(keys, keys[0]), value=False).as_py()
    return len(rows) if other < 0 else int(other)


def _say(subscription: str, topic: str, messages: int, code: str, error: str) -> None:
    events.DeadLettersRefused(subscription=subscription, topic=topic, messages=messages, code=code, error=error).emit()
