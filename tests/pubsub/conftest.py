"""The Pub/Sub room against the embedded emulator, with a sink that only collects."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pyarrow as pa
import pytest
from google.pubsub_v1.types import Subscription, Topic

from penstock.clock import boottime
from penstock.contract import ROWS_SCHEMA
from penstock.emulator import Emulator
from penstock.pubsub import AckQueue, Control, PubSubChannel, Puller, wire
from penstock.settings import PubSubSettings

TOPIC = "projects/p/topics/readings"
NAME = "projects/p/subscriptions/readings"


@dataclass
class Collected:
    """A `ChunkSink` that keeps everything and pauses when told to."""

    rows: list[pa.RecordBatch] = field(default_factory=list)
    ack_ids: list[pa.Array] = field(default_factory=list)
    received_at: list[float] = field(default_factory=list)
    paused: bool = False
    saturated: bool = False
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    def receive(self, rows: pa.RecordBatch, ack_ids: pa.Array, now: float) -> None:
        assert now > 0
        self.received_at.append(now)
        self.rows.append(rows)
        self.ack_ids.append(ack_ids)

    async def wait_resumed(self) -> None:
        while self.paused:
            await self._moved.wait()

    def resume(self) -> None:
        self.paused = False
        self._moved.set()

    @property
    def count(self) -> int:
        return sum(len(rows) for rows in self.rows)


@dataclass
class Clock:
    """The real one, which a test may put forward: as if the process had stood still meanwhile."""

    ahead_s: float = 0.0

    def __call__(self) -> float:
        return boottime() + self.ahead_s


@dataclass
class Room:
    """One subscription, pulled and acknowledged for real."""

    clock: Clock
    emulator: Emulator
    channel: PubSubChannel
    control: Control
    sink: Collected
    puller: Puller
    acks: AckQueue

    async def publish(self, count: int) -> None:
        data = pa.array([str(n).encode() for n in range(count)], pa.binary())
        columns = [data if f.name == "data" else pa.nulls(count, f.type) for f in ROWS_SCHEMA]
        rows = pa.RecordBatch.from_arrays(columns, schema=ROWS_SCHEMA)
        await self.channel.unary("Publisher", "Publish")(wire.encode_publish(TOPIC, rows))

    def statistics(self) -> dict[str, int]:
        return self.emulator.faults.statistics(NAME)


async def until(holds: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


@pytest.fixture
def settings() -> PubSubSettings:
    return PubSubSettings(jitter_ms=0, max_streams=2)


@pytest.fixture
async def room(monkeypatch: pytest.MonkeyPatch, settings: PubSubSettings) -> AsyncIterator[Room]:
    async with Emulator() as emulator:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", emulator.address)
        async with PubSubChannel(settings) as channel, Control(channel) as control:
            await channel.unary("Publisher", "CreateTopic")(Topic.serialize(Topic(name=TOPIC)))
            subscription = Subscription(name=NAME, topic=TOPIC, ack_deadline_seconds=10)
            await channel.unary("Subscriber", "CreateSubscription")(Subscription.serialize(subscription))
            sink = Collected()
            acks = AckQueue(channel, NAME, deadline_s=60, clock=boottime, rng=random.Random(1), base_backoff_s=0.01)
            clock = Clock()
            puller = Puller(
                channel,
                NAME,
                settings,
                sink,
                max_outstanding_bytes=lambda: 1 << 28,
                clock=clock,
                rng=random.Random(1),
                release=acks.release,
            )
            yield Room(clock, emulator, channel, control, sink, puller, acks)


@pytest.fixture
async def running(room: Room) -> AsyncIterator[Room]:
    """The room with its puller and acks at work."""
    tasks = [asyncio.ensure_future(room.puller.run()), asyncio.ensure_future(room.acks.run())]
    yield room
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
