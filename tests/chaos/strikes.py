"""The faults, done and undone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.disk import Disk
from tests.chaos.names import OUTPUT_TOPIC, READ
from tests.chaos.processes import DaemonUnderFire, QueryUnderFire
from tests.chaos.proxy import Proxy
from tests.chaos.schedule import NEED_QUERY, Fault

from penstock.emulator import FaultClient

EVERY = 1_000_000
"""Calls: more than there are until the fault is over."""


@dataclass(frozen=True)
class Strikes:
    """What faults are done to. `pubsub` and `flight` are the ways to the emulator and to the daemon."""

    faults: FaultClient
    daemon: DaemonUnderFire
    query: QueryUnderFire
    pubsub: Proxy
    flight: Proxy
    disk: Disk | None

    def can_hit(self, kind: str) -> bool:
        """Whether there is something now that a fault of this kind is about."""
        if kind == "kill worker" and not self.query.workers():
            return False
        return kind not in NEED_QUERY or self.query.at_work

    def strike(self, fault: Fault) -> None:
        """Do it."""
        faults, times = self.faults, fault.times
        strikes: dict[str, Callable[[], object]] = {
            "kill daemon": self.daemon.kill,
            "kill driver": self.query.kill,
            "kill worker": self.query.kill_worker,
            "pause daemon": self.daemon.pause,
            "pause driver": self.query.pause,
            "cut pubsub": self.pubsub.cut,
            "stall pubsub": self.pubsub.stall,
            "cut flight": self.flight.cut,
            "stall flight": self.flight.stall,
            "cut streams": faults.cut_streams,
            "fail Acknowledge": lambda: faults.fail("Acknowledge", "UNAVAILABLE", times),
            "fail ModifyAckDeadline": lambda: faults.fail("ModifyAckDeadline", "UNAVAILABLE", times),
            "fail StreamingPull": lambda: faults.fail("StreamingPull", "UNAVAILABLE", times),
            # Of the copies only: whoever publishes what is copied must not stop without a word.
            "fail Publish": lambda: faults.fail("Publish", "UNAVAILABLE", times, OUTPUT_TOPIC),
            "exhaust Publish": lambda: faults.fail("Publish", "RESOURCE_EXHAUSTED", EVERY, OUTPUT_TOPIC),
            "delay Publish": lambda: faults.delay("Publish", fault.seconds, times, OUTPUT_TOPIC),
            "delay Acknowledge": lambda: faults.delay("Acknowledge", fault.seconds, times),
            "drop acks": lambda: _each(lambda name: faults.drop_acks(name, times)),
            "redeliver": lambda: _each(lambda name: faults.redeliver(name, 100 * times)),
            "garble": lambda: _each(faults.garble),
            **({} if self.disk is None else {"fill disk": self.disk.fill}),
        }
        strikes[fault.kind]()

    def ending(self, kind: str) -> Callable[[], None] | None:
        """What ends a fault that lasts."""
        return {
            "pause daemon": self.daemon.go_on,
            "pause driver": self.query.go_on,
            "stall pubsub": self.pubsub.flow,
            "stall flight": self.flight.flow,
            "exhaust Publish": lambda: self.faults.clear(OUTPUT_TOPIC),
            **({} if self.disk is None else {"fill disk": self.disk.empty}),
        }.get(kind)


def _each(act: Callable[[str], object]) -> None:
    """To both subscriptions that are read."""
    for name in READ:
        act(name)
