"""Which fault happens when: one seed decides all of it."""

from __future__ import annotations

import random
from dataclasses import dataclass

CALM_S = 3.0
"""Before the first fault; a run begins when Spark has finished a batch."""

MEAN_GAP_S = 5.0
LONGEST_S = 8.0
"""Of a pause or a stall. Below the ack deadline, so that only the faults that say so make messages lapse."""

MOST_TIMES = 6
"""Of a call that fails. Backoff grows with each, to half a minute: many more would be a run that waits."""

KINDS: dict[str, float] = {
    "kill daemon": 3,
    "kill driver": 1,
    "kill worker": 2,
    "pause daemon": 2,
    "pause driver": 1,
    "cut pubsub": 2,
    "stall pubsub": 2,
    "cut flight": 2,
    "stall flight": 2,
    "cut streams": 1,
    "fail Acknowledge": 2,
    "fail ModifyAckDeadline": 1,
    "fail StreamingPull": 1,
    "delay Acknowledge": 1,
    "drop acks": 2,
    "redeliver": 2,
    "garble": 1,
    "fill disk": 2,
    "fail Publish": 2,
    "delay Publish": 1,
    "exhaust Publish": 1,
}
"""Every kind, and how often it comes up beside the others."""

LASTING = frozenset({"pause daemon", "pause driver", "stall pubsub", "stall flight", "fill disk", "exhaust Publish"})
"""Kinds that are over after their `seconds`."""

NEED_QUERY = frozenset(
    {"kill driver", "kill worker", "pause driver", "cut flight", "stall flight", "fail Publish", "exhaust Publish"}
)
"""Kinds that hit nothing while Spark starts: they are held back until a query is at work."""

EXHAUSTED_S = 30.0
LONG_S = 240.0
"""How long the quota of publishing is used up, in a run of at least so long: a copy waits for it, and for up to 20 s
more until the daemon asks again, which a short run has no time for."""


@dataclass(frozen=True)
class Fault:
    """`at_s` after the start, of `kind`; `seconds` for those that last, `times` for those that are counted."""

    at_s: float
    kind: str
    seconds: float
    times: int


def schedule(seed: int, seconds: float, *, without: frozenset[str] = frozenset()) -> list[Fault]:
    """The faults of a run, in order. Every kind comes up once before any comes up again, if there is time for all.

    `without`: kinds that cannot be done here.
    """
    rng = random.Random(seed)
    kinds = {kind: weight for kind, weight in KINDS.items() if kind not in without}
    first = list(kinds)
    rng.shuffle(first)
    faults: list[Fault] = []
    at_s = CALM_S
    while (at_s := at_s + rng.expovariate(1 / MEAN_GAP_S)) < seconds:
        kind = first.pop() if first else rng.choices(list(kinds), list(kinds.values()))[0]
        lasts_s = round(rng.uniform(0.5, LONGEST_S), 3)
        if kind == "exhaust Publish" and seconds >= LONG_S:
            lasts_s = EXHAUSTED_S
        faults.append(Fault(round(at_s, 3), kind, lasts_s, rng.randint(1, MOST_TIMES)))
    return faults
