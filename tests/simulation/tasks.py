"""Spark's tasks: attempts that read slices, fail in the middle, are repeated, or run twice at once (speculation)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from tests.simulation.network import LATENCY_S, Address

from penstock.client import CarriedCommit, PlanHost, PlannedRead, whole
from penstock.contract import PROTOCOL_VERSION
from penstock.contract.actions import ClaimReply, ClaimRequest
from penstock.errors import NodeUnreachable, PenstockError, from_dict
from penstock.flight.reads import Read

if TYPE_CHECKING:
    from tests.simulation.world import World

MAX_FAILURES = 4
"""`spark.task.maxFailures`."""


class JobFailed(Exception):
    """A task failed for the last time: so does the query."""


@dataclass(frozen=True)
class Part:
    """Satisfies `whole.Part`."""

    data: pa.RecordBatch | None
    app_metadata: pa.Buffer | None


@dataclass
class _Task:
    """One partition: its result is that of the attempt that succeeds first."""

    planned: PlannedRead
    rows: list[int] | None = None
    running: int = 0
    failures: int = 0


@dataclass
class Job:
    """All tasks of one micro-batch. `done` gets the rows of the successful attempts, or `JobFailed`; once."""

    world: World
    addresses: list[Address]
    planned: list[PlannedRead]
    host: PlanHost | None
    carried: CarriedCommit | None
    done: Callable[[list[int] | JobFailed], None]
    ended: bool = False
    tasks: list[_Task] = field(default_factory=list)

    def start(self) -> None:
        """Run every task at once."""
        self.tasks = [_Task(planned) for planned in self.planned]
        for number, task in enumerate(self.tasks):
            self._attempt(number, task)
            if self.world.faults.happens("speculation"):
                self._attempt(number, task)
        if not self.tasks:
            self._settle()

    def _attempt(self, number: int, task: _Task) -> None:
        task.running += 1
        Attempt(self, number, task.planned, lambda result: self._ended(number, task, result))

    def at(self, endpoint: str) -> Address:
        """Where that leads."""
        return next(address for address in self.addresses if address.endpoint == endpoint)

    def _ended(self, number: int, task: _Task, result: list[int] | PenstockError) -> None:
        task.running -= 1
        if self.ended or task.rows is not None:
            return
        if isinstance(result, list):
            task.rows = result
            self._settle()
            return
        task.failures += 1
        if task.failures >= MAX_FAILURES:
            self._end(JobFailed(f"task {number}: {result}"))
        elif not task.running:
            self._attempt(number, task)

    def _settle(self) -> None:
        if all(task.rows is not None for task in self.tasks):
            self._end([row for task in self.tasks for row in task.rows or ()])

    def _end(self, result: list[int] | JobFailed) -> None:
        if not self.ended:
            self.ended = True
            self.done(result)


class Attempt:
    """One attempt of a task. It outlives the driver that started it."""

    def __init__(
        self, job: Job, number: int, planned: PlannedRead, ended: Callable[[list[int] | PenstockError], None]
    ) -> None:
        world = job.world
        self._job = job
        self._number = number
        self._world = world
        self._placed = planned.placed
        self._ended = ended
        self._parts: list[Part] = []
        self._asked = False
        # As `pyspark_pubsub.reader`: the machine that a task runs on has a daemon, or none.
        self._beside = world.faults.rng.choice([None, *world.daemons]) if job.host is not None else None
        slow_s = 1.5 * world.faults.shape.consumer_timeout_s if world.faults.happens("slow_batch") else 0.0
        world.at(slow_s + world.faults.soon_s(0.05), self._begin if job.host is None else self._claim)

    def _claim(self) -> None:
        """Ask which slice this partition reads."""
        host = self._job.host
        assert host is not None, "only then is there something to claim"
        near = self._beside.reservoir.node if self._beside is not None and self._beside.up else None
        request = ClaimRequest(
            v=PROTOCOL_VERSION, plan=host.plan, incarnation=host.incarnation, partition=self._number, near=near
        )
        self._job.at(host.endpoint).send("claim", request, self._claimed)

    def _claimed(self, outcome: bytes | PenstockError) -> None:
        """The reply; a second one is ignored, as the product's call does."""
        if self._asked:
            return
        self._asked = True
        if isinstance(outcome, PenstockError):
            self._world.note("a task fails to claim: %s", outcome.code)
            self._ended(outcome)
            return
        self._placed = ClaimReply.from_json(outcome).slice
        self._world.checks.claimed(self._job, self._number, self._placed)
        self._begin()

    def _begin(self) -> None:
        """The slice is known: deliver what is carried, and read."""
        carried = self._job.carried
        if carried is not None:
            near = self._beside.reservoir.node if self._beside is not None and self._beside.up else None
            for address in self._job.addresses:
                node = address.daemon.reservoir.node if address.daemon.up else None
                if node in carried.nodes and node in {near, self._placed.node}:
                    # No harm if it fails.
                    address.send("commit", replace(carried.request, node=node), lambda _outcome: None)
        self._ask()

    def _ask(self) -> None:
        daemon = self._job.at(self._placed.endpoint).reach()
        if daemon is None:
            self._fail(NodeUnreachable("nobody answers do_get"))
            return
        if self._world.frozen(daemon.process, self._ask):
            return
        try:
            read = daemon.read(self._placed.ticket)
        except PenstockError as error:
            self._fail(from_dict(error.to_dict()))
            return
        life = daemon.life
        self._next(read, read.stream(), lambda: daemon.up and daemon.life == life)

    def _next(self, read: Read, stream: Generator[Any, None, None], alive: Callable[[], bool]) -> None:
        """The next part of the stream, as long as the daemon lives and nothing cuts it."""
        faults = self._world.faults
        if not alive() or faults.happens("cut_read"):
            stream.close()
            self._fail(NodeUnreachable("do_get was cut"))
            return
        if faults.happens("failed_task"):
            stream.close()
            self._fail(NodeUnreachable("the task failed by itself"))
            return
        try:
            said = next(stream, None)
        except PenstockError as error:
            self._fail(from_dict(error.to_dict()))
            return
        if said is None:
            self._finish(None)
            return
        self._parts.append(Part(*said) if isinstance(said, tuple) else Part(said, None))
        stalled_s = 30.0 if faults.happens("stalled_task") else 0.0
        self._world.at(stalled_s + faults.soon_s(LATENCY_S), lambda: self._next(read, stream, alive))

    def _fail(self, error: PenstockError) -> None:
        if error.args and "by itself" in str(error):
            self._parts.clear()
            self._ended(error)
        else:
            self._finish(error)

    def _finish(self, error: PenstockError | None) -> None:
        """What Spark's task sees is what the product makes of the parts."""
        rows: list[int] = []
        try:
            for batch in whole.whole_slice(self._placed.ticket, self._came(error), self._placed.endpoint):
                rows += [int(number) for number in batch.column("message_id").to_pylist()]
        except PenstockError as failure:
            self._parts.clear()
            self._world.note("a task fails: %s", failure.code)
            self._ended(failure)
            return
        self._parts.clear()
        self._world.checks.read(self._placed.ticket, rows)
        self._ended(rows)

    def _came(self, error: PenstockError | None) -> Iterator[Part]:
        yield from self._parts
        if error is not None:
            # A new one: an error that its own traceback can reach would keep what the frames there hold.
            raise from_dict(error.to_dict())
