"""Spark's tasks: attempts that read slices, fail in the middle, are repeated, or run twice at once (speculation)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from tests.simulation.network import LATENCY_S, Address

from penstock.client import PlannedRead, whole
from penstock.contract.actions import CommitRequest
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
    address: Address
    planned: list[PlannedRead]
    commit: CommitRequest | None
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
        carried = self.commit if number == 0 else None
        Attempt(self.world, self.address, task.planned, carried, lambda result: self._ended(number, task, result))

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
        self,
        world: World,
        address: Address,
        planned: PlannedRead,
        commit: CommitRequest | None,
        ended: Callable[[list[int] | PenstockError], None],
    ) -> None:
        self._world = world
        self._address = address
        self._ticket = planned.ticket
        self._ended = ended
        self._parts: list[Part] = []
        if commit is not None:
            # As `pyspark_pubsub.reader`: no harm if it fails.
            address.send("commit", commit, lambda _outcome: None)
        slow_s = 1.5 * world.faults.shape.consumer_timeout_s if world.faults.happens("slow_batch") else 0.0
        world.at(slow_s + world.faults.soon_s(0.05), self._ask)

    def _ask(self) -> None:
        daemon = self._address.reach()
        if daemon is None:
            self._fail(NodeUnreachable("nobody answers do_get"))
            return
        if self._world.frozen(daemon.process, self._ask):
            return
        try:
            read = daemon.read(self._ticket)
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
            for batch in whole.whole_slice(self._ticket, self._came(error), self._address.endpoint):
                rows += [int(number) for number in batch.column("message_id").to_pylist()]
        except PenstockError as failure:
            self._parts.clear()
            self._world.note("a task fails: %s", failure.code)
            self._ended(failure)
            return
        self._parts.clear()
        self._world.checks.read(self._ticket, rows)
        self._ended(rows)

    def _came(self, error: PenstockError | None) -> Iterator[Part]:
        yield from self._parts
        if error is not None:
            # A new one: an error that its own traceback can reach would keep what the frames there hold.
            raise from_dict(error.to_dict())
