"""One daemon: the product's reservoir, actions and reads, its coroutines driven by hand, its streams simulated."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from tests.simulation.disk import Killed
from tests.simulation.history import Spans
from tests.simulation.pubsub import Message
from tests.simulation.schedule import Process
from tests.simulation.sending import Sending
from tests.simulation.storage import Lasting, Memory, Store, Volatile

from penstock.contract import ROWS_SCHEMA
from penstock.contract.actions import CreateSubscription, Ticket
from penstock.contract.body import Request
from penstock.errors import Draining, PenstockError, from_dict
from penstock.flight import Actions
from penstock.flight.reads import Read, Reads
from penstock.reservoir import Reservoir, Subscription, durably
from penstock.reservoir.decisions import SubscriptionHeld
from penstock.settings import ReservoirSettings
from penstock.storage import Found, StoreFailed

if TYPE_CHECKING:
    from tests.simulation.world import World

SUBSCRIPTION = "projects/p/subscriptions/orders"

WALL_S = 1_700_000_000.0
"""The wall clock when a world begins."""

DRAIN_S = 10.0
"""How long readers may finish after SIGTERM."""

FLUSH_S = 0.2
"""On average: for the last acks and releases, of which some may not have been sent."""

TICK_S = 1.0
"""The product ticks twenty times as often; nothing here lasts less than this but the way of a call."""

Answer = Callable[[bytes | PenstockError], None]


class Settings(ReservoirSettings):
    """With a memory limit in bytes: a simulated world is small."""

    limit_bytes: int

    @property
    def memory_limit_bytes(self) -> int:
        """The budget."""
        return self.limit_bytes


class Delay:
    """Awaited where the product waits for the service; whoever drives the coroutine resumes it after `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __await__(self) -> Generator[float, None, None]:
        """Say how long."""
        yield float(self.seconds)


class Daemon:
    """Satisfies `flight.Opener`. `life` counts its starts, so that what belongs to an earlier one is told apart."""

    reservoir: Reservoir
    sender: Sending
    reads: Reads

    def __init__(self, world: World, site: str) -> None:
        shape = world.faults.shape
        self.world = world
        self.name = site
        self.up = False
        self.draining = False
        self.life = 0
        self.process = Process(site)
        self.settings = Settings(
            limit_bytes=shape.memory_bytes,
            consumer_timeout_s=shape.consumer_timeout_s,
            max_lease_s=120.0,
            read_idle_s=20.0,
        )
        self.memory: Memory = Volatile(self)
        if shape.storage != "memory":
            self.memory = Lasting(self, fsync=shape.storage == "disk", is_memory=shape.storage == "tmpfs")
        self.stream: PullStream | None = None
        self._opening = False
        self._actions: Actions

    def __repr__(self) -> str:
        """Its name."""
        return self.name

    # --- life ---------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start the process."""
        self.up, self.life, self.stream, self._opening = True, self.life + 1, None, False
        self.draining = False
        self.process.frozen_until = 0.0
        try:
            self.reservoir, found = self.memory.boot()
        except (OSError, StoreFailed, Killed) as error:
            self.crash(f"as it starts ({error})")
            self.restart()
            return
        self._actions = Actions(self.reservoir, self, "simulated")
        self.reads = Reads(lambda: self.world.now, self.settings.read_idle_s)
        self.sender = Sending(self, self.world.service, SUBSCRIPTION)
        self.compared: set[str] = set()
        self.world.checks.booted(self)
        self.world.note("%s starts as node %s", self.name, self.reservoir.node)
        if found is not None:
            self.world.checks.found(self, found)
            self._recover(found)
        self._tick(self.life)

    def _recover(self, found: Found) -> None:
        """As `Service` does, before anybody is answered."""
        self.reservoir.recover_evicted(found.evicted)
        for held, consumers in found.subscriptions:
            self._build(held.subscription).recover(consumers)

    def crash(self, how: str = "is killed", *, power: bool = False) -> None:
        """kill -9, or with `power` the end of the whole machine."""
        self.up = False
        self.close_stream()
        self.world.note("%s crashes: %s", self.name, how)
        self.world.checks.crashed(self)
        self.memory.crash(power=power)

    def restart(self) -> None:
        """Some time after a crash."""
        self.world.at(2.0 if self.world.faults.quiet else self.world.faults.rng.choice([0.5, 5.0, 25.0]), self.boot)

    def _tick(self, life: int) -> None:
        if life != self.life or not self.up:
            return
        if self.world.frozen(self.process, lambda: self._tick(life)):
            return
        self.reservoir.tick()
        self.reads.sweep()
        if isinstance(self.reservoir.store, Store):
            self.reservoir.store.idle()
        self._pull()
        self.world.checks.after(self)
        self.world.at(TICK_S, lambda: self._tick(life))

    # --- calls --------------------------------------------------------------------------------------------------

    def serve(self, action: str, request: Request, answer: Answer) -> None:
        """A request has arrived."""
        self._drive(self._actions.call(action, request.to_json()), action, request, answer, self.life)

    def _drive(
        self,
        call: Coroutine[Any, Any, bytes],
        action: str,
        request: Request,
        answer: Answer,
        life: int,
        *,
        decided: bool = False,
    ) -> None:
        if life != self.life or not self.up:
            call.close()
            return
        self.world.checks.begins(action, request)
        drive = functools.partial(self._drive, call, action, request, answer, life)
        try:
            waits = call.send(None)
        except StopIteration as end:
            if not decided:
                self.world.checks.decided(self, action, request)
            self.world.checks.answered(self, action, request, end.value)
            answer(end.value)
        except PenstockError as error:
            self.world.note("%s answers %s with %s", self.name, action, error.code)
            answer(from_dict({**error.to_dict(), "node": error.node or self.reservoir.node}))
        else:
            if isinstance(waits, float):
                self.world.at(waits, drive)
            else:  # for the disk: what was asked is done, and not durable yet
                self.world.checks.decided(self, action, request)
                waits(functools.partial(drive, decided=True))
        self._pull()
        self.world.checks.after(self)

    def read(self, ticket: Ticket) -> Read:
        """`do_get`. Raises `PenstockError`."""
        return self.reads.start(self.reservoir.read(ticket), ticket.columns)

    # --- flight.Opener ------------------------------------------------------------------------------------------

    async def subscription(self, name: str, create: CreateSubscription | None) -> Subscription:
        """The one there is, described first by whoever opens it first."""
        faults = self.world.faults
        if self.draining:
            raise Draining("the daemon is shutting down")
        if name not in self.reservoir.subscriptions or faults.rng.random() < 0.1:
            await Delay(faults.soon_s(0.2))
        if name not in self.reservoir.subscriptions:
            self._build(name)
            if self.reservoir.store is not None:
                shape = faults.shape
                self.reservoir.store.record(SubscriptionHeld(name, shape.ordered, shape.exactly_once))
        return self.reservoir.subscriptions[name]

    def _build(self, name: str) -> Subscription:
        shape = self.world.faults.shape
        held = Subscription(
            name,
            node=self.reservoir.node,
            settings=self.settings,
            budget=self.reservoir.budget,
            acks=durably(self.sender, self.reservoir.store),
            clock=lambda: self.world.now,
            ordered=shape.ordered,
            deadline_s=shape.deadline_s,
            max_buffer_age_s=30.0,
            store=self.reservoir.store,
            wall=lambda: WALL_S + self.world.now,
        )
        held.pulling = Pulled(self)
        self.reservoir.add(held)
        return held

    def state(self) -> str:
        """What it is doing."""
        return "draining" if self.draining else "serving"

    def publishing(self) -> dict[str, object]:
        """Nothing is."""
        return {}

    def figures(self) -> dict[str, dict[str, object]]:
        """Of the subscription."""
        return {name: held.statistics() for name, held in self.reservoir.subscriptions.items()}

    def drain(self) -> None:
        """SIGTERM: as `Service` ends, in its order."""
        self.draining = True
        self.world.note("%s drains", self.name)
        for held in self.reservoir.subscriptions.values():
            held.drain()
        self._drain(self.life, self.world.now + DRAIN_S)

    def _drain(self, life: int, end: float) -> None:
        if life != self.life or not self.up or self.world.frozen(self.process, lambda: self._drain(life, end)):
            return
        subscriptions = self.reservoir.subscriptions.values()
        if self.world.now < end and any(held.batches for held in subscriptions):
            self.world.at(TICK_S / 2, lambda: self._drain(life, end))
            return
        for held in subscriptions:
            held.release_all()
        self.world.checks.after(self)
        self.world.at(self.world.faults.soon_s(FLUSH_S), lambda: self._end(life))

    def _end(self, life: int) -> None:
        if life == self.life and self.up:
            self.crash("has drained")
            self.restart()

    # --- pulling ------------------------------------------------------------------------------------------------

    @property
    def held(self) -> Subscription | None:
        """The subscription, once somebody has opened it."""
        return self.reservoir.subscriptions.get(SUBSCRIPTION)

    def _pull(self) -> None:
        """Open a stream when messages are wanted, and close it some time after they are not."""
        held = self.held
        if held is None or self._opening or held.wanted is (self.stream is not None):
            return
        self._opening = True
        life = self.life

        def act() -> None:
            if life != self.life or not self.up:
                return
            self._opening = False
            if held.wanted and self.stream is None:
                self.stream = PullStream(self, held)
                self.world.service.attach(self.stream)
            elif not held.wanted and self.stream is not None:
                self.close_stream()
                held.stopped_pulling()
            self.world.checks.after(self)

        self.world.at(self.world.faults.soon_s(0.1), act)

    def close_stream(self) -> None:
        """The stream ends; what it had on its way is nobody's until its deadline."""
        if self.stream is not None:
            self.stream.open = False
            self.world.service.detach(self.stream)
            self.stream = None


class Pulled:
    """Satisfies `reservoir.Pulling` for a daemon."""

    outstanding_limit_bytes = 0
    ordered = None
    trouble = None

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    @property
    def streams_open_since(self) -> float | None:
        """Of the one stream."""
        return None if self._daemon.stream is None else self._daemon.stream.since

    @property
    def exactly_once(self) -> bool:
        """As the world is."""
        return self._daemon.world.faults.shape.exactly_once


class PullStream:
    """Satisfies `pubsub.Stream`: one StreamingPull call."""

    def __init__(self, daemon: Daemon, held: Subscription) -> None:
        self.open = True
        self.since = daemon.world.now
        self._daemon = daemon
        self._held = held

    def may_send(self) -> bool:
        """Not while the daemon does not read."""
        return not self._held.paused and self._daemon.process.frozen_until <= self._daemon.world.now

    def arrive(self, messages: Sequence[Message], ack_ids: Sequence[str]) -> None:
        """One response."""
        world = self._daemon.world
        if not self.open or world.frozen(self._daemon.process, lambda: self.arrive(messages, ack_ids)):
            return
        world.note("%s receives %s", self._daemon.name, Spans(message.number for message in messages))
        rows = len(messages)
        columns = [
            pa.array([str(message.number) for message in messages], pa.string()),
            pa.array([b"0123456789abcdef"] * rows, pa.binary()),
            pa.nulls(rows, ROWS_SCHEMA.field("attributes").type),
            pa.array([message.published_us for message in messages], ROWS_SCHEMA.field("publish_time").type),
            pa.array([message.key for message in messages], pa.string()),
            pa.nulls(rows, pa.int32()),
        ]
        batch = pa.RecordBatch.from_arrays(columns, schema=ROWS_SCHEMA)
        self._held.receive(batch, pa.array(ack_ids, pa.string()), world.now)
        world.checks.after(self._daemon)
