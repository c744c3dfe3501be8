"""What goes wrong, how often, and how large everything is: drawn from the seed before anything happens.

Each seed has its own mix ("swarm testing"): many faults at once hide what one of them alone would show.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, fields, replace


@dataclass
class Mix:
    """Chances of a fault each time it could happen, and weights of the larger ones (0: never)."""

    # Calls between Spark's side and the daemon.
    lost_request: float = 0.0
    lost_reply: float = 0.0
    late_request: float = 0.0
    repeated_request: float = 0.0
    # Between the daemon and Pub/Sub.
    lost_ack: float = 0.0
    lost_ack_reply: float = 0.0
    late_ack: float = 0.0
    refused_ack: float = 0.0
    delivered_twice: float = 0.0
    # Spark's tasks.
    failed_task: float = 0.0
    cut_read: float = 0.0
    stalled_task: float = 0.0
    speculation: float = 0.0
    slow_batch: float = 0.0
    # A node goes, for long, when Spark has just written down what it sealed.
    lost_node: float = 0.0
    # The daemon's disk.
    slow_disk: float = 0.0
    # What happens now and then, to somebody.
    daemon_crash: float = 0.0
    daemon_pause: float = 0.0
    driver_crash: float = 0.0
    driver_pause: float = 0.0
    zombie: float = 0.0
    stop: float = 0.0
    cut: float = 0.0
    move: float = 0.0
    stream_break: float = 0.0
    strangers: float = 0.0
    power_cut: float = 0.0
    torn_write: float = 0.0
    failed_sync: float = 0.0
    disk_full: float = 0.0
    damaged_rows: float = 0.0
    # Only where a run is to be about it.
    daemon_drain: float = 0.0


DISK = ("torn_write", "failed_sync", "disk_full", "damaged_rows")
"""Only where there is one."""

NOW_AND_THEN = (
    *("daemon_crash", "daemon_pause", "driver_crash", "driver_pause", "zombie", "stop", "cut", "move"),
    *("stream_break", "strangers", "power_cut", *DISK),
    "daemon_drain",
)

STRESS_WEIGHT, STRESS_CHANCE, STRESS_EVERY_S = 8.0, 0.2, 1.0
"""Of the kinds of faults that a run is to be about."""

_CHANCES = {"slow_batch": (0.0, 0.0, 0.1), "speculation": (0.0, 0.3)}
_OTHERWISE = (0.0, 0.0, 0.03, 0.12)
_WEIGHTS = (0.0, 0.0, 1.0, 3.0)


@dataclass(frozen=True)
class Shape:
    """Sizes of one seed's world."""

    daemons: int
    queries: int
    share: bool
    storage: str
    ordered: bool
    exactly_once: bool
    memory_bytes: int
    deadline_s: float
    consumer_timeout_s: float
    max_rows: int | None
    min_rows: int | None
    slices: int
    publish_every_s: float
    fault_every_s: float
    calm: bool
    spread: bool
    """Whether a query reads from all daemons, each at an address of its own; else from one address."""


class Faults:
    """Draws them, and counts those that happened.

    `stress`: kinds that every seed is to have many of, or `spread` for queries that read from several nodes.
    """

    def __init__(self, rng: random.Random, stress: tuple[str, ...] = ()) -> None:
        self.rng = rng
        self.counts: Counter[str] = Counter()
        self.quiet = False
        self.shape = _shape(rng)
        if stress:
            spread = self.shape.spread and "move" not in stress
            daemons = self.shape.daemons
            if "move" in stress:
                daemons = 2
            if "spread" in stress:
                spread, daemons = True, max(daemons, 2)
            storage = "disk" if {*DISK, "slow_disk", "power_cut"} & set(stress) else self.shape.storage
            self.shape = replace(
                self.shape,
                calm=False,
                fault_every_s=STRESS_EVERY_S,
                daemons=daemons,
                spread=spread,
                storage=storage,
            )
        self.mix = Mix() if self.shape.calm else _mix(rng)
        for kind in {*stress} - {"spread"}:
            setattr(self.mix, kind, STRESS_WEIGHT if kind in NOW_AND_THEN else STRESS_CHANCE)
        if self.shape.daemons == 1 or self.shape.spread:
            self.mix.move = 0.0
        if self.shape.storage == "memory":
            for kind in DISK:
                setattr(self.mix, kind, 0.0)

    def happens(self, kind: str) -> bool:
        """Whether this fault strikes now."""
        chance: float = getattr(self.mix, kind)
        struck = not self.quiet and chance > 0 and self.rng.random() < chance
        if struck:
            self.counts[kind] += 1
        return struck

    def next_large(self) -> str | None:
        """Which of the larger ones comes now."""
        weights = [getattr(self.mix, kind) for kind in NOW_AND_THEN]
        if self.quiet or not any(weights):
            return None
        return self.rng.choices(NOW_AND_THEN, weights)[0]

    def soon_s(self, mean_s: float) -> float:
        """A random delay; when all is quiet a short and even one."""
        return mean_s if self.quiet else self.rng.expovariate(1 / mean_s)


def _shape(rng: random.Random) -> Shape:
    queries = rng.choice([1, 1, 1, 2])
    daemons = rng.choice([1, 1, 2, 2, 3])
    return Shape(
        daemons=daemons,
        queries=queries,
        share=rng.random() < 0.6,
        storage=rng.choice(["memory", "memory", "disk", "disk", "unsynced", "tmpfs"]),
        ordered=rng.random() < 0.3,
        exactly_once=rng.random() < 0.3,
        memory_bytes=rng.choice([16 << 10, 64 << 10, 1 << 20]),
        deadline_s=rng.choice([10.0, 30.0, 60.0]),
        consumer_timeout_s=rng.choice([12.0, 30.0]),
        max_rows=rng.choice([None, None, 3, 10]),
        min_rows=rng.choice([None, None, 2]),
        slices=rng.choice([1, 2, 3]),
        publish_every_s=rng.choice([0.1, 0.5, 2.0]),
        fault_every_s=rng.choice([2.0, 5.0, 15.0]),
        calm=rng.random() < 0.1,
        spread=daemons > 2 or (daemons == 2 and rng.random() < 0.6),
    )


def _mix(rng: random.Random) -> Mix:
    mix = Mix()
    for field in fields(Mix):
        if field.name == "daemon_drain":
            continue
        choices = _WEIGHTS if field.name in NOW_AND_THEN else _CHANCES.get(field.name, _OTHERWISE)
        setattr(mix, field.name, rng.choice(choices))
    return mix
