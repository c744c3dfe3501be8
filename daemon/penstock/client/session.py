"""A driver with its threads: the heartbeat, and one that waits for rows so that idle calls are cheap."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from penstock.client.driver import Driver, Limits
from penstock.client.offset import Offset
from penstock.client.peer import Peer
from penstock.client.planning import PlanHost, PlannedRead
from penstock.errors import PenstockError

IDLE_WAIT_S = 0.1
"""Longest that an idle `latest` waits for rows: Spark asks every 11 ms otherwise; other sources of a query wait too."""

LOOK_S = 5.0
"""How long one `backlog` call waits on the daemon, which allows 30. A closed reader's last call lasts as long."""

LOOK_AGAIN_S = 0.5
"""Pause after a `backlog` call that failed."""


class Session:
    """Owns a driver's threads; they start with the first call and end with `bye` or `close` (or with the process)."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._stop = threading.Event()
        self._asked = threading.Condition()
        self._asks = 0
        self._woken = threading.Event()
        self._served: set[Peer] = set()
        self.saying_bye = False
        """Whether `bye` is under way: a signal handler that interrupts it must let it go on."""

    def latest(self, start: Offset, limits: Limits, wait_s: float = IDLE_WAIT_S) -> Offset | None:
        """`Driver.latest`, which while idle waits for rows up to `wait_s`."""
        self._start()
        sealed = self.driver.latest(start, limits)
        if sealed is None and self.driver.waits_for_rows and self._rows_come(wait_s, limits):
            sealed = self.driver.latest(start, limits)
        return sealed

    def seal(self, start: Offset, limits: Limits, wait_s: float = IDLE_WAIT_S) -> Offset | None:
        """`Driver.seal`, which while idle waits for rows up to `wait_s`."""
        self._start()
        sealed = self.driver.seal(start, limits)
        if sealed is None and self._rows_come(wait_s, limits):
            sealed = self.driver.seal(start, limits)
        return sealed

    def plan(self, start: Offset, end: Offset, slices: int) -> list[PlannedRead]:
        """`Driver.plan`."""
        self._start()
        return self.driver.plan(start, end, slices)

    def host(self, epoch: int, planned: Sequence[PlannedRead]) -> PlanHost | None:
        """`Driver.host`."""
        return self.driver.host(epoch, planned)

    def commit(self, finished: Offset) -> None:
        """`Driver.commit`."""
        self.driver.commit(finished)

    def report(self) -> dict[str, Any]:
        """`Driver.report`."""
        return self.driver.report()

    def bye(self) -> None:
        """Stop; another consumer may take over at once. Safe in a signal handler: takes no lock. Said once."""
        if self._stop.is_set():
            return
        # Before the event, whose waiters may run first: a signal in between would find nothing to let go on.
        self.saying_bye = True
        self._stop.set()
        try:
            self.driver.bye()
        finally:
            self.saying_bye = False

    def close(self) -> None:
        """End the consumer for good."""
        self._stop.set()
        self.driver.close()

    def _start(self) -> None:
        """Two threads for each node that has none yet: one that stands still holds up no other."""
        for peer in self.driver.peers:
            if peer not in self._served:
                self._served.add(peer)
                for name, run in (("heartbeat", self._beat), ("backlog", self._look)):
                    threading.Thread(target=run, args=(peer,), name=f"penstock-{name}", daemon=True).start()

    def _rows_come(self, wait_s: float, limits: Limits) -> bool:
        """Wait for the first row; with a minimum there may be rows already, so that only time can tell."""
        if limits.min_rows is not None:
            # Not `_stop.wait`, whose lock a signal handler that says `bye` on this thread would then wait for.
            time.sleep(min(wait_s, IDLE_WAIT_S))
            return True
        self._woken.clear()
        with self._asked:
            self._asks += 1
            self._asked.notify_all()
        return self._woken.wait(wait_s)

    def _serves(self, peer: Peer) -> bool:
        """Whether a node's threads go on."""
        return not self._stop.is_set() and peer in self.driver.peers

    def _beat(self, peer: Peer) -> None:
        while self._serves(peer) and not self._stop.wait(self.driver.beat(peer)):
            pass
        self._served.discard(peer)

    def _look(self, peer: Peer) -> None:
        """Ask only when somebody waits, so that a busy query costs no extra calls."""
        answered = 0
        while self._serves(peer):
            with self._asked:
                if self._asks == answered and not self._asked.wait(LOOK_AGAIN_S):
                    continue
                answered = self._asks
            try:
                if self.driver.look(LOOK_S, peer):
                    self._woken.set()
            except PenstockError:  # the caller's own next call hears the same
                self._woken.set()
                self._stop.wait(LOOK_AGAIN_S)
