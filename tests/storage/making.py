"""What storage tests are made of: a reservoir on a folder, restarted at will, with a Pub/Sub that takes notes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.reservoir.making import CONSUMER, DEADLINE_S, NAME, HandClock, NotedAcks, messages

from penstock.contract import PROTOCOL_VERSION, Reader
from penstock.contract.actions import FinishedEpoch
from penstock.reservoir import Reservoir, Subscription, durably
from penstock.reservoir.decisions import SubscriptionHeld
from penstock.settings import ReservoirSettings
from penstock.storage import Store, open_store

WALL = 1_800_000_000.0


@dataclass
class Wall:
    """The wall clock, which a test may set back."""

    clock: HandClock
    offset: float = WALL

    def __call__(self) -> float:
        """Seconds since 1970."""
        return self.offset + self.clock.now


@dataclass
class Host:
    """What outlives a process: the folder, the clocks, the service."""

    path: Path
    fsync: bool = True
    ordered: bool = False
    clock: HandClock = field(default_factory=HandClock)
    acks: NotedAcks = field(default_factory=NotedAcks)

    def __post_init__(self) -> None:
        """The wall clock goes with the other one."""
        self.wall = Wall(self.clock)
        self.next_message = 0

    @contextlib.asynccontextmanager
    async def process(self) -> AsyncIterator[Node]:
        """A daemon's life; it ends as if killed: what is not durable when the block ends is lost."""
        node = Node(self)
        running = asyncio.create_task(node.store.run())
        try:
            yield node
        finally:
            running.cancel()
            await asyncio.wait([running])
            node.store.close()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


class Node:
    """One process: a reservoir with one subscription on a store."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.store: Store
        self.store, found = open_store(host.path, fsync=host.fsync, site="here")
        settings = ReservoirSettings(memory_limit_mb=64)
        self.reservoir = Reservoir(settings, host.clock, node=found.node, store=self.store)
        self.reservoir.recover_evicted(found.evicted)
        self.subscription = Subscription(
            NAME,
            node=self.reservoir.node,
            settings=settings,
            budget=self.reservoir.budget,
            acks=durably(host.acks, self.store),
            clock=host.clock,
            ordered=host.ordered,
            deadline_s=DEADLINE_S,
            max_buffer_age_s=60,
            store=self.store,
            wall=host.wall,
        )
        self.reservoir.add(self.subscription)
        for _, consumers in found.subscriptions:
            self.subscription.recover(consumers)
        self.store.record(SubscriptionHeld(NAME, host.ordered, None))

    def open(self, generation: int = 1, *, after: int = 0, consumer: str = CONSUMER) -> Reader:
        """Open a consumer with a reader of that generation."""
        reader = Reader(generation, f"reader-{generation}")
        self.reservoir.open(self.subscription, consumer, reader, after=after, share=True)
        return reader

    def deliver(self, count: int, *, keys: tuple[str | None, ...] = (None,), data_bytes: int = 16) -> None:
        """New messages as one chunk."""
        rows, ack_ids = messages(self.host.next_message, count, keys=keys, data_bytes=data_bytes)
        self.host.next_message += count
        self.subscription.receive(rows, ack_ids, self.host.clock())

    def seal(self, reader: Reader, epoch: int, max_rows: int | None = None, consumer: str = CONSUMER) -> str | None:
        """The batch ID."""
        subscription, held = self.reservoir.enter(consumer, reader)
        return subscription.seal(held, epoch, max_rows=max_rows, max_bytes=None).batch

    def commit(self, reader: Reader, epoch: int, batch: str) -> str:
        """What became of it."""
        subscription, held = self.reservoir.enter(CONSUMER, reader)
        finished = FinishedEpoch(epoch=epoch, nodes={self.reservoir.node: batch})
        return subscription.commit(held, [finished], frozenset(), contact=True)[epoch]

    def slices(self, reader: Reader, epoch: int, batch: str, slices: int) -> list[list[str]]:
        """Message IDs of each slice."""
        subscription, held = self.reservoir.enter(CONSUMER, reader)
        planned = subscription.plan(held, epoch, batch, slices, None, PROTOCOL_VERSION)
        snapshots = [self.reservoir.read(one.ticket) for one in planned]
        return [
            [text for part in snapshot.parts for text in part.record_batch().column("message_id").to_pylist()]
            for snapshot in snapshots
        ]
