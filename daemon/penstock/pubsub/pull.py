"""The pull streams of one subscription: as many as it needs."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace

import pyarrow as pa

from penstock.clock import Clock
from penstock.pubsub import wire
from penstock.pubsub.channel import PubSubChannel
from penstock.pubsub.gate import Gate
from penstock.pubsub.gathering import Gathering
from penstock.pubsub.stream import PullStatistics, PullStream, Shared
from penstock.pubsub.verdict import Vigil, autoscale, rush
from penstock.reservoir.ports import ChunkSink
from penstock.settings import PubSubSettings

SCALE_INTERVAL_S = 5.0
"""Rates are taken over this time: long against the service's bursts, short against a backlog that grows."""

LOOK_S = 0.2
"""Whether there is a rush is looked at this often, in microseconds. So few streams are soon as many as may be."""

RETIRE_S = 5.0
"""How long one stream too many may take to end by itself: nobody waits for it, unlike for those of a pull that ends."""


RENEW = 1.25
"""A stream that would get this many times its flow control now makes room for a new one, since it cannot be told."""


class Puller:
    """All pull streams of one subscription. `run` may be called again after it ended.

    `max_outstanding_bytes` is asked whenever a stream is opened, and holds for that one; when it has grown much, one
    stream after the other makes room for a new one. `release` (such as
    `AckQueue.release`) gives back what a stream that was not read for too long still held. Without it those messages
    come again at their deadline.
    """

    def __init__(  # noqa: PLR0913 - composed in one place
        self,
        channel: PubSubChannel,
        subscription: str,
        settings: PubSubSettings,
        sink: ChunkSink,
        *,
        max_outstanding_bytes: Callable[[], int],
        clock: Clock,
        rng: random.Random,
        release: Callable[[Sequence[pa.Array]], None] | None = None,
    ) -> None:
        self.properties: wire.Properties | None = None
        """What the service said of the subscription on a pull stream; None before it did."""
        self._settings = settings
        self._clock = clock
        self._sink = sink
        self.gate = Gate("pull", subscription, clock=clock, rng=rng)
        self._statistics = PullStatistics()
        self._shared = Shared(
            channel=channel,
            subscription=subscription,
            settings=settings,
            sink=sink,
            first_request=functools.partial(
                wire.first_pull_request, subscription, settings.ack_deadline_s, uuid.uuid4().hex
            ),
            max_outstanding_bytes=max_outstanding_bytes,
            clock=clock,
            rng=rng,
            statistics=self._statistics,
            gathering=Gathering(clock, self._deliver),
            vigil=Vigil(clock()),
            gate=self.gate,
            learn=self._learn,
            release=release,
        )
        self._streams: dict[PullStream, list[asyncio.Task[None]]] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._opened = 0

    def __repr__(self) -> str:
        """Such as `<Puller projects/p/subscriptions/s: 2 streams>`."""
        return f"<Puller {self._shared.subscription}: {len(self._streams)} streams>"

    async def run(self) -> None:
        """Pull until cancelled. Raises `SubscriptionFailed` in an exception group.

        Cancellation closes all streams, after what they read was handed to the sink.
        """
        self._shared.vigil.begin(self._clock())
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._shared.gathering.run())
                for _ in range(self._settings.min_streams):
                    self._open(tasks)
                while True:
                    # In a rush twice as many, otherwise one by one.
                    self._scale(tasks, most=len(self._streams) if await self._rush() else 1)
        finally:
            self._streams.clear()

    async def leave(self, timeout_s: float) -> None:
        """Half-close all streams and hand over what is still on its way; `run` is to be cancelled afterwards."""
        leaving = [parts[0] for stream, parts in list(self._streams.items()) if await stream.leave()]
        leaving += self._retiring
        if leaving:
            await asyncio.wait(leaving, timeout=timeout_s)

    def statistics(self) -> PullStatistics:
        """Counts so far, and what is open now."""
        since = [stream.open_since for stream in self._streams]
        opened = [at for at in since if at is not None]
        all_open = bool(opened) and len(opened) == len(since)
        return replace(
            self._statistics,
            streams=len(opened),
            outstanding_bytes=sum(
                stream.outstanding_bytes for stream in self._streams if stream.open_since is not None
            ),
            all_open_since=max(opened) if all_open else None,
        )

    def _deliver(self, decoded: wire.Decoded, received_at: float) -> None:
        self._statistics.messages += decoded.rows.num_rows
        self._sink.receive(decoded.rows, decoded.ack_ids, received_at)

    def _learn(self, properties: wire.Properties) -> None:
        self.properties = properties

    def _open(self, tasks: asyncio.TaskGroup) -> None:
        stream = PullStream(self._opened, self._shared)
        self._opened += 1
        self._streams[stream] = [tasks.create_task(part) for part in (stream.run(), stream.stay_alive())]

    async def _rush(self) -> bool:
        """Wait for the interval over which rates are taken to end; True when a rush ends it.

        In a rush the rate of a stream is limited here. It has one read under way, and gRPC fetches no more while the
        loop decodes; with several streams the loop goes from one to the next without a wait.
        """
        begin, most = self._clock(), self._settings.max_streams
        while self._clock() - begin < SCALE_INTERVAL_S:
            await asyncio.sleep(min(LOOK_S, SCALE_INTERVAL_S))
            self._shared.vigil.runs(self._clock())
            if rush([stream.interval_bytes for stream in self._streams], most=most, interval_s=SCALE_INTERVAL_S):
                return True
        return False

    def _scale(self, tasks: asyncio.TaskGroup, *, most: int) -> None:
        """Open at most `most` streams, or close one."""
        rates = {stream: stream.interval_bytes / SCALE_INTERVAL_S for stream in self._streams}
        for stream in self._streams:
            stream.interval_bytes = 0
        if self._sink.paused:  # nobody reads: the rates say nothing
            return
        room = self._shared.max_outstanding_bytes()
        outgrown = [s for s in rates if s.open_since is not None and s.outstanding_bytes * RENEW <= room]
        if outgrown:
            self._open(tasks)
            self._retire(tasks, min(outgrown, key=rates.__getitem__))
            return
        change = autoscale(
            list(rates.values()),
            least=self._settings.min_streams,
            most=self._settings.max_streams,
            saturated=self._sink.saturated,
        )
        if change > 0:
            for _ in range(min(most, self._settings.max_streams - len(self._streams))):
                self._open(tasks)
        elif change < 0:
            self._retire(tasks, min(rates, key=rates.__getitem__))

    def _retire(self, tasks: asyncio.TaskGroup, stream: PullStream) -> None:
        retiring = tasks.create_task(_retire(stream, self._streams.pop(stream)))
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)


async def _retire(stream: PullStream, parts: Sequence[asyncio.Task[None]]) -> None:
    """Half-close a stream and let it hand over what is on its way: cut, that would be nobody's until its deadline."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(RETIRE_S):
            if await stream.leave():
                await asyncio.wait(parts[:1])
    for part in parts:
        part.cancel()
