"""What survives a daemon: nothing, or what the product's own store has written to a simulated disk.

`Volatile` and `Lasting` are the two kinds of memory that a daemon may have. The store is the product's `Pending` (which
decides) and `Writing` (which acts) with simulated time between them in place of a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Protocol

from tests.simulation.disk import Disk, Killed

from penstock.errors import DiskFull
from penstock.reservoir import Reservoir
from penstock.reservoir.decisions import Decision
from penstock.reservoir.kept import Copy, Kept
from penstock.storage.pending import Job
from penstock.storage.ports import StoreFailed
from penstock.storage.recovery import Found, Opened, open_disk

if TYPE_CHECKING:
    from tests.simulation.daemon import Daemon

TAKE_S, WRITE_S, SETTLE_S = 0.001, 0.004, 0.001
"""On average: until the writer takes a job, until it has written it, until the loop hears of it."""

SLOW_S = 4.0
"""A disk that hangs."""

Resume = Callable[[], None]


class Memory(Protocol):
    """What a daemon keeps, and how it comes back."""

    def boot(self) -> tuple[Reservoir, Found | None]:
        """What a process starts with. Raises `OSError`, `StoreFailed`, `Killed` when it ends at once."""

    def crash(self, *, power: bool) -> None:
        """The process was killed; with `power` the whole machine was."""


class Volatile:
    """Memory only: the end of the process ends all of it."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def boot(self) -> tuple[Reservoir, None]:
        """Nothing is known."""
        daemon = self._daemon
        return Reservoir(daemon.settings, lambda: daemon.world.now, site=daemon.name), None

    def crash(self, *, power: bool) -> None:
        """Nothing is left."""


class Lasting:
    """A `data_dir` on a simulated disk, opened anew by every process."""

    def __init__(self, daemon: Daemon, *, fsync: bool, is_memory: bool) -> None:
        self.disk = Disk(daemon.world.faults.rng, daemon.name, fsync=fsync, is_memory=is_memory)
        self._daemon = daemon

    def boot(self) -> tuple[Reservoir, Found]:
        """As the product finds it."""
        daemon = self._daemon
        opened = open_disk(self.disk, site=daemon.name)
        store = Store(daemon, self.disk, opened)
        node = opened.found.node
        reservoir = Reservoir(daemon.settings, lambda: daemon.world.now, site=daemon.name, node=node, store=store)
        return reservoir, opened.found

    def crash(self, *, power: bool) -> None:
        """What was written stays, or with `power` only what was synced."""
        self.disk.kill_in, self.disk.sync_fails = None, False
        if power:
            self.disk.lose_power()


class Told:
    """Awaited by who waits for decisions: resumed when the store has an outcome for it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._heard: list[DiskFull | None] = []
        self._resume: Resume | None = None

    def __await__(self) -> Generator[Any, None, None]:
        """Say whom to resume."""
        call = self._store.pending.call(self._hear)
        try:
            if not self._heard:
                yield self._wait
        finally:
            self._store.pending.forget(call)
        if self._heard[0] is not None:
            raise self._heard[0]

    def _wait(self, resume: Resume) -> None:
        self._resume = resume

    def _hear(self, outcome: DiskFull | None) -> None:
        self._heard.append(outcome)
        if self._resume is not None:
            self._store.world.at(0.0, self._resume)


class Store:
    """Satisfies `reservoir.ports.BatchStore` for one life of a daemon."""

    def __init__(self, daemon: Daemon, disk: Disk, opened: Opened) -> None:
        self.world = daemon.world
        self.is_memory = disk.is_memory
        self.pending = opened.pending
        self._writing = opened.writing
        self._decisions = opened.decisions
        self._daemon = daemon
        self._life = daemon.life
        self._busy = False
        self._disk = disk

    # --- reservoir.ports.BatchStore -----------------------------------------------------------------------------

    @property
    def problem(self) -> str | None:
        """See `BatchStore`."""
        return self.pending.problem

    def append(self, subscription: str, rows: Copy, kept: Kept, written: Callable[[Copy], None]) -> None:
        """See `BatchStore`."""
        self.pending.append(subscription, rows, kept, written)
        self._work()

    def record(self, decision: Decision, *, lazily: bool = False, refused: Callable[[], None] | None = None) -> None:
        """See `BatchStore`."""
        self.pending.record(decision, lazily=lazily, refused=refused)
        self._work()

    def after(self, act: Callable[[], None]) -> None:
        """See `BatchStore`."""
        self.pending.after(act)

    async def durable(self) -> None:
        """See `BatchStore`."""
        if not self.pending.durable:
            await Told(self)

    def statistics(self) -> dict[str, object]:
        """See `BatchStore`."""
        return {"problem": self.problem}

    def idle(self) -> None:
        """Called every second, as the product's writer looks then, work or not."""
        if self._disk.files or not self.pending.is_empty:
            self._work()

    # --- the writer ---------------------------------------------------------------------------------------------

    def _work(self) -> None:
        if not self._busy:
            self._busy = True
            self._then(TAKE_S, self._take)

    def _then(self, mean_s: float, act: Callable[[], None]) -> None:
        """Go on after a while, unless the process has ended, or later where it stands still."""
        self.world.at(self.world.faults.soon_s(mean_s), lambda: self._go_on(act))

    def _go_on(self, act: Callable[[], None]) -> None:
        daemon = self._daemon
        if not daemon.up or daemon.life != self._life:
            return
        if not self.world.frozen(daemon.process, lambda: self._go_on(act)):
            act()

    def _take(self) -> None:
        job = self.pending.take(grown=self._decisions.grown)
        slow = self.world.faults.happens("slow_disk")
        self._then(SLOW_S if slow else WRITE_S, lambda: self._write(job))

    def _write(self, job: Job) -> None:
        try:
            self._writing.write(job)
        except (Killed, StoreFailed) as error:
            how = str(error) or "it dies in the middle of a write"
            self._daemon.crash(how, power=isinstance(error, Killed) and self.world.faults.rng.random() < 0.5)
            self._daemon.restart()
            return
        self._then(SETTLE_S, lambda: self._settle(job))

    def _settle(self, job: Job) -> None:
        if job.failure is not None and self.problem is None:
            self.world.note("%s finds no room on its disk", self._daemon.name)
        self._busy = False
        if self.pending.settle(job):
            self._work()
        self.world.checks.after(self._daemon)
