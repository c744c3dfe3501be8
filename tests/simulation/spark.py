"""Spark's micro-batches: a checkpoint that outlives drivers, an idempotent sink, and drivers that die anywhere between.

The order of writes is that of `MicroBatchExecution`: offset log, tasks, sink, commit log; a log entry is written once,
and who comes second ends.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.simulation.daemon import SUBSCRIPTION
from tests.simulation.history import Spans
from tests.simulation.network import Address
from tests.simulation.schedule import Lock, Process
from tests.simulation.tasks import Job, JobFailed

from penstock.client import Driver, Limits, Offset, ReaderSettings
from penstock.contract import new_id
from penstock.errors import PenstockError

if TYPE_CHECKING:
    from tests.simulation.world import World

STEP_S = 0.02
"""Between two steps of a micro-batch: where a driver may die."""

IDLE_S = 0.3
"""Between two triggers that found nothing."""

NODE_WAIT_S = 15.0
START_S = 1_700_000_000.0


class ConcurrentUpdate(Exception):
    """Another driver has written this log entry (Spark's CONCURRENT_STREAM_LOG_UPDATE)."""


@dataclass
class Checkpoint:
    """Files of one query: batch → what its offset log says; batches in the commit log; the sink by batch."""

    offsets: dict[int, str] = field(default_factory=dict)
    commits: set[int] = field(default_factory=set)
    sink: dict[int, list[int]] = field(default_factory=dict)

    def offset(self, batch: int) -> Offset:
        """As `pyspark_pubsub.reader` reads it."""
        return Offset.from_checkpoint(json.loads(self.offsets[batch]), SUBSCRIPTION)

    def finished(self, *, but_last: bool = False) -> list[int]:
        """Messages of all finished batches (but the last one), as often as they are there."""
        batches = sorted(self.commits)[: -1 if but_last else None]
        return [number for batch in batches for number in self.sink[batch]]


class Query:
    """One query over its restarts. `driver` is the one that Spark believes in; others may go on without it."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.checkpoint = Checkpoint()
        self.addresses = [Address(world, world.daemons[0])]
        if world.faults.shape.spread:
            self.addresses = [Address(world, daemon, f"{daemon.name}:8815") for daemon in world.daemons]
        self.driver: QueryDriver | None = None
        self.zombies: list[QueryDriver] = []
        self.stopped = False
        self._drivers = 0

    def start(self) -> None:
        """Start a driver, unless there is one or the query was stopped."""
        if self.driver is None and not self.stopped:
            self._drivers += 1
            self.driver = QueryDriver(self, f"{self.name}.{self._drivers}")

    def crash(self, driver: QueryDriver, why: str) -> None:
        """A driver's process ends."""
        driver.kill(why)
        if driver is self.driver:
            self.driver = None
            self.world.at(self.world.faults.soon_s(2.0), self.start)
        else:
            self.zombies = [zombie for zombie in self.zombies if zombie is not driver]

    def split(self) -> None:
        """The driver is believed dead and goes on all the same."""
        if self.driver is not None:
            self.zombies.append(self.driver)
            self.world.note("%s is given up but lives on", self.driver.name)
            self.driver = None
            self.world.at(self.world.faults.soon_s(1.0), self.start)


class QueryDriver:
    """One driver process: the micro-batch loop and the heartbeat, around the product's `Driver`."""

    def __init__(self, query: Query, name: str) -> None:
        world = query.world
        self.name = name
        self.query = query
        self.world = world
        self.process = Process(name)
        # Machines' clocks differ: a successor's may be behind.
        self._skew_s = 0.0 if world.faults.shape.calm else world.faults.rng.choice([0.0, 0.0, 3.0, -3.0])
        self._driver: Driver | None = None
        world.note("%s starts", name)
        world.scheduler.start(self.process, self._run)

    def kill(self, why: str) -> None:
        """SIGKILL."""
        self.world.note("%s ends: %s", self.name, why)
        self.world.scheduler.kill(self.process)
        self._driver = None

    def stop(self) -> None:
        """`query.stop()`: a word of farewell, from a process that then is no more."""
        driver = self._driver
        if driver is None:
            self.query.crash(self, "stopped")
            return
        farewell = Process(f"{self.name} leaves")

        def leave() -> None:
            driver.bye()
            self.world.at(0.0, lambda: self.world.scheduler.kill(farewell))

        self.query.crash(self, "stopped")
        self.world.scheduler.start(farewell, leave)

    # --- the process --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """The query, until it fails."""
        try:
            self._micro_batches()
        except (PenstockError, JobFailed, ConcurrentUpdate) as error:
            code = error.code if isinstance(error, PenstockError) else type(error).__name__
            self.world.at(0.0, lambda: self.query.crash(self, code))
            self.world.scheduler.pause(lambda _wake: None)  # until then

    def _micro_batches(self) -> None:
        checkpoint = self.query.checkpoint
        last = max(checkpoint.offsets, default=-1)
        position = Offset.initial(new_id(), SUBSCRIPTION)
        if last >= 0 and last not in checkpoint.commits:
            begin = checkpoint.offset(last - 1) if last else position
            self._run_batch(last, begin, checkpoint.offset(last))
        if last >= 0:
            position = checkpoint.offset(last)
        while True:
            self._step()
            end = self._reader(position).latest(position, self._limits())
            if end is None:
                if last < 0 and self.world.faults.rng.random() < 0.3:
                    end = position  # a fresh query logs a batch 0 without data
                else:
                    self.world.scheduler.sleep(self.world.faults.soon_s(IDLE_S))
                    continue
            self._step()
            last += 1
            if last in checkpoint.offsets:
                raise ConcurrentUpdate
            checkpoint.offsets[last] = json.dumps(end.to_plain())
            self.world.note("%s writes offsets/%d: epoch %d %s", self.name, last, end.epoch, _Named(end))
            if end.nodes and self.world.faults.happens("lost_node"):
                self.world.lose_node(self.query, self.world.faults.rng.choice(sorted(end.nodes)))
            self._run_batch(last, position, end)
            position = end

    def _run_batch(self, batch: int, begin: Offset, end: Offset) -> None:
        checkpoint, rng = self.query.checkpoint, self.world.faults.rng
        self._step()
        planned, host, carried = [], None, None
        if begin.epoch != end.epoch:
            reader = self._reader(end)
            for _ in range(rng.choice([1, 1, 2])):
                planned = reader.plan(begin, end, self.world.faults.shape.slices)
                host = reader.host(end.epoch, planned)
            carried = reader.pending_commits()
        self._step()
        rows = self._job(lambda done: Job(self.world, self.query.addresses, planned, host, carried, done).start())
        self._step()
        if batch not in checkpoint.sink:
            checkpoint.sink[batch] = rows
            self.world.note("%s writes batch %d to the sink: %s", self.name, batch, Spans(rows))
        else:
            self.world.note("%s finds batch %d in the sink", self.name, batch)
        self._step()
        if batch in checkpoint.commits:
            raise ConcurrentUpdate
        checkpoint.commits.add(batch)
        self.world.checks.finished(checkpoint.sink[batch])
        self.world.note("%s writes commits/%d", self.name, batch)

    def _job(self, begin: Callable[[Callable[[Any], None]], None]) -> list[int]:
        rows: list[int] = self.world.scheduler.pause(begin)
        return rows

    def _reader(self, at: Offset) -> Driver:
        """The product's driver; its heartbeat starts with it."""
        if self._driver is None:
            world = self.world
            settings = ReaderSettings(
                subscription=SUBSCRIPTION, share=world.faults.shape.share, node_wait_s=NODE_WAIT_S, commit_ttl=5
            )
            self._driver = Driver(
                at.consumer,
                settings,
                self.query.addresses,
                clock=lambda: world.now,
                wall=lambda: START_S + self._skew_s + world.now,
                sleep=world.scheduler.sleep,
            )
            driver = self._driver
            driver._calls.turn = Lock(world.scheduler)  # type: ignore[assignment]
            world.scheduler.start(self.process, lambda: self._beat(driver))
        return self._driver

    def _beat(self, driver: Driver) -> None:
        while True:
            self.world.scheduler.sleep(driver.beat())

    def _limits(self) -> Limits:
        shape = self.world.faults.shape
        return Limits(max_rows=shape.max_rows, min_rows=shape.min_rows, max_delay_s=2.0)

    def _step(self) -> None:
        self.world.scheduler.sleep(self.world.faults.soon_s(STEP_S))


class _Named:
    """The batches of an offset, in words when somebody reads them."""

    def __init__(self, offset: Offset) -> None:
        self._offset = offset

    def __str__(self) -> str:
        return ", ".join(f"{node}: {named.batch} ({named.rows} rows)" for node, named in self._offset.nodes.items())


def seeded_ids(rng: random.Random) -> Callable[[], str]:
    """Stands for `uuid4().hex`: short, so that histories can be read."""
    return lambda: f"{rng.getrandbits(40):010x}"
