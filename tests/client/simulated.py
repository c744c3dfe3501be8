"""A world without threads, sockets or a real clock: Pub/Sub, one daemon, and Spark with its checkpoint.

The daemon's reservoir and actions and the reader's driver are the real ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from penstock.client import Driver, Limits, Offset, ReaderSettings
from penstock.contract import ROWS_SCHEMA
from penstock.contract.actions import ACTIONS, CreateSubscription
from penstock.contract.body import Request
from penstock.errors import BatchGone, NodeUnreachable, PenstockError, ReaderFenced
from penstock.flight import Actions
from penstock.reservoir import AckOutcome, Reservoir, Subscription
from penstock.settings import ReservoirSettings

SUBSCRIPTION = "projects/p/subscriptions/orders"
CONSUMER = "consumer-1"
START_S = 1_700_000_000.0
STEP_S = 1.0


class World:
    """Pub/Sub and one daemon. Satisfies `client.Node`, `flight.Opener` and `reservoir.AckSink`."""

    endpoint = "simulated:1"

    def __init__(self) -> None:
        self.now = 0.0
        self.published = 0
        self.unsent: list[str] = []
        self.acknowledged: set[str] = set()
        self.finished: set[str] = set()
        self.hold_acks = False
        self.faults: list[str] = []
        self.calls: list[str] = []
        self.reader: Driver | None = None
        self._waiting: list[tuple[list[str], Callable[[AckOutcome], None]]] = []
        self._next_beat = 0.0
        self._loop = asyncio.new_event_loop()
        self._boot()

    def close(self) -> None:
        """End the loop."""
        self._loop.close()

    # --- what happens -------------------------------------------------------------------------------------------

    def publish(self, messages: int) -> None:
        """More to deliver."""
        self.unsent += [f"m{number}" for number in range(self.published, self.published + messages)]
        self.published += messages

    def restart(self) -> None:
        """The daemon loses its memory; Pub/Sub delivers again what was not acknowledged."""
        self._waiting.clear()
        self.unsent = [f"m{n}" for n in range(self.published) if f"m{n}" not in self.acknowledged]
        self._boot()

    def confirm(self) -> None:
        """The service confirms every ack sent."""
        waiting, self._waiting = self._waiting, []
        for ids, settled in waiting:
            early = set(ids) - self.finished
            assert not early, f"acknowledged before Spark had finished them: {early}"
            self.acknowledged.update(ids)
            settled(AckOutcome(len(ids), 0))

    def advance(self, seconds: float) -> None:
        """Time goes on in small steps: leases, contact, heartbeats of the reader that lives, deliveries."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + STEP_S, end)
            self.reservoir.tick()
            if self.reader is not None and self.now >= self._next_beat:
                self._next_beat = self.now + self.reader.beat()
            self._deliver()

    def read(self, ticket: Any) -> list[str]:
        """`do_get`. Raises `BatchGone`."""
        parts = self.reservoir.read(ticket).parts
        return [name for part in parts for name in part.record_batch()["message_id"].to_pylist()]

    # --- client.Node --------------------------------------------------------------------------------------------

    def call(self, action: str, request: Request) -> Any:
        """One action. A fault loses its request or its reply."""
        self.calls.append(action)
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "request":
            raise NodeUnreachable("the request was lost")
        reply = self._loop.run_until_complete(self._actions.call(action, request.to_json()))
        if fault == "reply":
            raise NodeUnreachable("the reply was lost")
        return ACTIONS[action].reply.from_json(reply)

    # --- flight.Opener ------------------------------------------------------------------------------------------

    async def subscription(self, name: str, create: CreateSubscription | None) -> Subscription:
        """The one there is."""
        return self.reservoir.subscriptions[name]

    def state(self) -> str:
        """Always."""
        return "serving"

    def publishing(self) -> dict[str, object]:
        """Nothing is."""
        return {}

    def figures(self) -> dict[str, dict[str, object]]:
        """None."""
        return {}

    def drain(self) -> None:
        """Not here."""

    # --- reservoir.AckSink --------------------------------------------------------------------------------------

    def acknowledge(self, ack_ids: Sequence[pa.Array], settled: Callable[[AckOutcome], None]) -> None:
        """Confirmed at once, or later."""
        self._waiting.append(([name for array in ack_ids for name in array.to_pylist()], settled))
        if not self.hold_acks:
            self.confirm()

    def extend(self, ack_ids: Sequence[pa.Array], settled: Callable[[bool], None]) -> None:
        """Always works."""
        settled(True)

    def release(self, ack_ids: Sequence[pa.Array], settled: Callable[[], None]) -> None:
        """To be delivered again."""
        settled()
        self.unsent += [name for array in ack_ids for name in array.to_pylist()]

    # --- inside -------------------------------------------------------------------------------------------------

    def _boot(self) -> None:
        settings = ReservoirSettings()
        self.reservoir = Reservoir(settings, lambda: self.now)
        self.held = Subscription(
            SUBSCRIPTION,
            node=self.reservoir.node,
            settings=settings,
            budget=self.reservoir.budget,
            acks=self,
            clock=lambda: self.now,
            ordered=False,
            deadline_s=60.0,
            max_buffer_age_s=60.0,
        )
        self.reservoir.add(self.held)
        self._actions = Actions(self.reservoir, self, "simulated")

    def _deliver(self) -> None:
        if not self.unsent or not self.held.wanted or self.held.paused:
            return
        ids, self.unsent = self.unsent, []
        columns: dict[str, list[Any]] = {name: [None] * len(ids) for name in ROWS_SCHEMA.names}
        columns |= {"message_id": ids, "publish_time": [int((START_S + self.now) * 1e6)] * len(ids)}
        self.held.receive(pa.RecordBatch.from_pydict(columns, schema=ROWS_SCHEMA), pa.array(ids), self.now)


class Query:
    """Spark's side: a checkpoint that outlives drivers, and one trigger after the other."""

    def __init__(self, world: World, limits: Limits, slices: int = 2) -> None:
        self.world = world
        self.limits = limits
        self.slices = slices
        self.offsets = [Offset.initial(CONSUMER, SUBSCRIPTION)]
        self.committed = 0
        self.zombies: list[Driver] = []
        self._seen: dict[str, list[str]] = {}

    def trigger(self, crash: str = "") -> None:
        """One trigger, or what comes before a crash: `sealed`, `logged`, `read`, `committed`, `split` (it lives on)."""
        try:
            self._trigger(crash)
        except ReaderFenced:
            raise
        except (NodeUnreachable, BatchGone):
            self.die()

    def die(self, *, split: bool = False) -> None:
        """The driver is gone; with `split` only for its successor."""
        if self.world.reader is not None and split:
            self.zombies.append(self.world.reader)
        self.world.reader = None

    def haunt(self) -> None:
        """Drivers that should be dead go on with what they knew."""
        for zombie in self.zombies:
            try:
                zombie.beat()
                zombie.latest(self.offsets[self.committed], self.limits)
            except (ReaderFenced, NodeUnreachable):
                continue

    def _trigger(self, crash: str) -> None:
        if self.world.reader is None:
            self.world.reader = self._driver()
        if self.committed == len(self.offsets) - 1:
            sealed = self.world.reader.latest(self.offsets[-1], self.limits)
            if crash in {"sealed", "split"}:
                return self.die(split=crash == "split")
            if sealed is None:
                return None
            self.offsets.append(sealed)
            if crash == "logged":
                return self.die()
        start, end = self.offsets[self.committed], self.offsets[self.committed + 1]
        planned = self.world.reader.plan(start, end, self.slices)
        rows = [name for part in planned for name in self._read(part.ticket)]
        if crash == "read":
            return self.die()
        self.world.finished.update(rows)
        self.committed += 1
        return self.die() if crash == "committed" else None

    def _read(self, ticket: Any) -> list[str]:
        rows = self.world.read(ticket)
        key = f"{ticket.batch} {ticket.slice} of {ticket.slices}"
        assert self._seen.setdefault(key, rows) == rows, "a slice was read with other rows than before"
        return rows

    def _driver(self) -> Driver:
        return Driver(
            CONSUMER,
            ReaderSettings(subscription=SUBSCRIPTION, node_wait_s=20.0),
            [self.world],
            clock=lambda: self.world.now,
            wall=lambda: START_S + self.world.now,
            sleep=self.world.advance,
        )


def run_dry(query: Query) -> None:
    """No more faults: whatever was published must come to be processed and acknowledged."""
    world = query.world
    world.faults.clear()
    world.hold_acks = False
    world.confirm()
    for _ in range(200):
        world.advance(1.0)
        try:
            query.trigger()
        except PenstockError:
            query.die()
        if len(world.acknowledged) == world.published:
            return
    raise AssertionError(
        f"{world.published - len(world.acknowledged)} of {world.published} messages were never acknowledged"
    )
