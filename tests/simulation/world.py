"""One seed's world: daemons, queries, Pub/Sub, and the faults between them; then quiet, in which all must be done."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

from tests.simulation.checks import Checks
from tests.simulation.daemon import Daemon
from tests.simulation.disk import Disk
from tests.simulation.faults import Faults
from tests.simulation.history import History, Violation
from tests.simulation.network import Address
from tests.simulation.pubsub import Service
from tests.simulation.schedule import Event, Process, Scheduler
from tests.simulation.spark import Query, QueryDriver
from tests.simulation.storage import Lasting
from tests.simulation.strangers import Stranger

QUIET_S = 900.0
"""Simulated time in which everything must be done once faults have stopped: many time-outs and restarts long."""

LEAVING_S = 120.0
"""Simulated time in which a daemon must let everything go once its last reader has left."""


class World:
    """Everything there is, and the only source of chance."""

    def __init__(self, seed: int, history_lines: int | None, stress: tuple[str, ...] = ()) -> None:
        self.seed = seed
        self.faults = Faults(random.Random(seed), stress)
        self.scheduler = Scheduler()
        self.history = History(history_lines)
        self.checks = Checks(self)
        self.service = Service(self.scheduler, self.faults, self.history, self.checks.is_finished)
        shape = self.faults.shape
        self.daemons = [Daemon(self, site) for site in ("a", "b", "c")[: shape.daemons]]
        self.queries = [Query(self, name) for name in ("q", "r")[: shape.queries]]

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self.scheduler.now

    def at(self, delay_s: float, act: Callable[[], None]) -> Event:
        """See `Scheduler.at`."""
        return self.scheduler.at(delay_s, act)

    def note(self, text: str, *values: object) -> None:
        """A line of the history."""
        self.history.add(self.scheduler.now, text, *values)

    def frozen(self, process: Process, again: Callable[[], None]) -> bool:
        """Whether a process stands still; then `again` runs when it goes on."""
        left_s = process.frozen_until - self.scheduler.now
        if left_s > 0:
            self.at(left_s, again)
        return left_s > 0

    # --- the whole run ------------------------------------------------------------------------------------------

    def run(self, events: int) -> None:
        """Faults for that many events, then quiet. Raises `Violation`."""
        for daemon in self.daemons:
            daemon.boot()
        for query in self.queries:
            query.start()
        self._publish()
        self._trouble()
        while self.scheduler.events < events:
            self.scheduler.step()
        self._calm_down()
        self._until(self._all_done, QUIET_S, "not everything was processed and acknowledged")
        if self.faults.shape.calm:
            self._check_once()
        for query in self.queries:
            query.stopped = True
            if query.driver is not None:
                query.driver.stop()
        self._until(self._nothing_held, LEAVING_S, "something is held for ever")

    def close(self) -> None:
        """End all actors."""
        self.scheduler.close()

    def _until(self, done: Callable[[], bool], limit_s: float, otherwise: str) -> None:
        end = self.now + limit_s
        while not done():
            if self.now > end:
                left = [message.number for message in self.service.messages if not message.acked]
                raise Violation(f"{otherwise} within {limit_s:g} s without faults", left)
            self.scheduler.step()

    # --- what happens by itself ---------------------------------------------------------------------------------

    def _publish(self) -> None:
        if not self.faults.quiet:
            self.service.publish(self.faults.rng.randint(1, 6))
            self.at(self.faults.soon_s(self.faults.shape.publish_every_s), self._publish)

    def _trouble(self) -> None:
        """One of the larger faults, and when the next one comes."""
        if self.faults.quiet:
            return
        kind = self.faults.next_large()
        if kind is not None and getattr(self, f"_{kind}")():
            self.faults.counts[kind] += 1
        self.at(self.faults.soon_s(self.faults.shape.fault_every_s), self._trouble)

    def _calm_down(self) -> None:
        self.note("--- faults stop")
        self.faults.quiet = True
        for query in self.queries:
            for zombie in list(query.zombies):
                query.crash(zombie, "zombies end")
            for address in query.addresses:
                address.cut_until = 0.0
        for query in self.queries[1:]:
            if not self.faults.shape.share:  # only one may read: the other makes room
                query.stopped = True
                if query.driver is not None:
                    query.driver.stop()
        for daemon in self.daemons:
            daemon.process.frozen_until = min(daemon.process.frozen_until, self.now)
            if isinstance(daemon.memory, Lasting):
                daemon.memory.disk.kill_in, daemon.memory.disk.sync_fails = None, False
                self._make_room(daemon.memory.disk)

    def _all_done(self) -> bool:
        return self.service.unacked == 0 and not any(
            daemon.up and daemon.held is not None and (daemon.held.batches or daemon.held.backlog().rows)
            for daemon in self.daemons
        )

    def _nothing_held(self) -> bool:
        return not any(
            daemon.held is not None
            and (daemon.held.batches or daemon.held.backlog().rows or daemon.held.used_bytes or daemon.held.needed)
            for daemon in self.daemons
        ) and not any(
            isinstance(daemon.memory, Lasting) and daemon.memory.disk.files for daemon in self.daemons if daemon.up
        )

    def _check_once(self) -> None:
        """Nothing went wrong: everything is there once, and the rows of a key are in the order they were published."""
        # The last batch of a query that makes room is one that no later trigger tells of: others have its rows again.
        rows = [number for query in self.queries for number in query.checkpoint.finished(but_last=query.stopped)]
        twice = [number for number, count in Counter(rows).items() if count > 1]
        if twice:
            raise Violation("without a fault these are in the sinks more than once", twice)
        if self.faults.shape.ordered and len(self.queries) == 1 and len(self.daemons) == 1:
            last: dict[str | None, int] = {}
            for number in rows:
                key = self.service.messages[number].key
                if last.get(key, -1) > number:
                    raise Violation(f"key {key} is out of order in the sink", [last[key], number])
                last[key] = number

    # --- the larger faults --------------------------------------------------------------------------------------

    def _daemon_crash(self) -> bool:
        daemon = self.faults.rng.choice(self.daemons)
        if not daemon.up:
            return False
        daemon.crash()
        daemon.restart()
        return True

    def _daemon_drain(self) -> bool:
        daemon = self.faults.rng.choice(self.daemons)
        if not daemon.up or daemon.draining:
            return False
        daemon.drain()
        return True

    def _power_cut(self) -> bool:
        daemon = self.faults.rng.choice(self.daemons)
        if not daemon.up:
            return False
        daemon.crash("its machine loses power", power=True)
        daemon.restart()
        return True

    def _disk(self) -> Disk | None:
        memory = self.faults.rng.choice(self.daemons).memory
        return memory.disk if isinstance(memory, Lasting) else None

    def _torn_write(self) -> bool:
        disk = self._disk()
        if disk is not None:
            disk.kill_in = self.faults.rng.randrange(8)
        return disk is not None

    def _failed_sync(self) -> bool:
        disk = self._disk()
        if disk is not None:
            disk.sync_fails = True
        return disk is not None

    def _damaged_rows(self) -> bool:
        disk = self._disk()
        return disk is not None and disk.injure()

    def _disk_full(self) -> bool:
        disk = self._disk()
        if disk is None or disk.full_for_rows:
            return False
        disk.full_for_rows, disk.full_for_decisions = True, self.faults.rng.random() < 0.3
        self.note("%s is full, for %s", disk.path, "everything" if disk.full_for_decisions else "rows")
        self.at(self.faults.rng.choice([0.5, 5.0, 25.0]), lambda: self._make_room(disk))
        return True

    def _make_room(self, disk: Disk) -> None:
        disk.full_for_rows = disk.full_for_decisions = False
        self.note("%s has room again", disk.path)

    def lose_node(self, query: Query, node: str) -> None:
        """One that has rows which an offset names is gone for longer than its consumers may be silent, or cut off.

        Where one address leads to all daemons, it leads to another one for a while.
        """
        if not self.faults.shape.spread and len(self.daemons) > 1:
            (address,) = query.addresses
            here, there = address.daemon, self.daemons[1 - self.daemons.index(address.daemon)]
            address.lead(there)
            self.at(self.faults.rng.choice([0.1, 0.5, 2.0]), lambda: address.lead(here))
            return
        for daemon in self.daemons:
            if not daemon.up or daemon.reservoir.node != node:
                continue
            seconds = self.faults.rng.choice([1.5, 3.0]) * self.faults.shape.consumer_timeout_s
            if self.faults.rng.random() < 0.5:
                daemon.crash("is lost")
                self.at(seconds, daemon.boot)
            else:
                self._cut_off([address for address in query.addresses if address.daemon is daemon], seconds)

    def _cut_off(self, addresses: Sequence[Address], seconds: float) -> None:
        for address in addresses:
            address.cut_until = max(address.cut_until, self.now + seconds)
            self.note("the way to %s is cut for %g s", address.daemon.name, seconds)

    def _daemon_pause(self) -> bool:
        daemon = self.faults.rng.choice(self.daemons)
        return daemon.up and self._freeze(daemon.process)

    def _freeze(self, process: Process) -> bool:
        seconds = self.faults.rng.choice([1.0, 7.0, 20.0, 70.0])
        process.frozen_until = max(process.frozen_until, self.now + seconds)
        self.note("%s stands still for %g s", process.name, seconds)
        return True

    def _some_driver(self) -> QueryDriver | None:
        drivers = [driver for query in self.queries for driver in (query.driver, *query.zombies) if driver is not None]
        return self.faults.rng.choice(drivers) if drivers else None

    def _driver_crash(self) -> bool:
        driver = self._some_driver()
        if driver is not None:
            driver.query.crash(driver, "killed")
        return driver is not None

    def _driver_pause(self) -> bool:
        driver = self._some_driver()
        return driver is not None and self._freeze(driver.process)

    def _zombie(self) -> bool:
        query = self.faults.rng.choice(self.queries)
        if query.driver is None or query.zombies:
            return False
        query.split()
        return True

    def _stop(self) -> bool:
        query = self.faults.rng.choice(self.queries)
        if query.driver is None:
            return False
        query.driver.stop()
        return True

    def _cut(self) -> bool:
        address = self.faults.rng.choice(self.faults.rng.choice(self.queries).addresses)
        self._cut_off([address], self.faults.rng.choice([0.5, 5.0, 40.0]))
        return True

    def _move(self) -> bool:
        (address,) = self.faults.rng.choice(self.queries).addresses
        address.lead(self.daemons[1 - self.daemons.index(address.daemon)])
        if self.faults.rng.random() < 0.7:  # and back again
            back = self.daemons[1 - self.daemons.index(address.daemon)]
            self.at(self.faults.rng.choice([0.1, 0.5, 2.0, 10.0]), lambda: address.lead(back))
        return True

    def _stream_break(self) -> bool:
        daemon = self.faults.rng.choice(self.daemons)
        if daemon.stream is None:
            return False
        daemon.close_stream()
        self.note("the pull stream of %s breaks", daemon.name)
        return True

    def _strangers(self) -> bool:
        """Consumers that come once and never again: they fill the daemon's list of consumers."""
        query = self.faults.rng.choice(self.queries)
        Stranger(self, self.faults.rng.choice(query.addresses))
        return True
