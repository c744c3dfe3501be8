"""A circuit breaker: when calls of one kind fail and fail again, one of them asks for all. Sans-I/O.

::

    CLOSED ── failures without a success, `OPEN_AFTER` of them over `OPEN_AFTER_S` ──▶ OPEN
    OPEN ── the next probe is due, and somebody wants to call ──▶ HALF_OPEN
    HALF_OPEN ── the probe failed, or was given up ──▶ OPEN
    OPEN, HALF_OPEN ── any call worked ──▶ CLOSED

Each subscription has one for pull streams, one for Acknowledge, one for ModifyAckDeadline and one for Publish: the
service may refuse one and take another, and a success of the one must not hide the failures of the other.

What a caller does while it may not call is its own matter. Pull streams, acks and publishes wait for their turn:
nothing is lost by waiting. Lease extensions and releases do not wait, they fail at once, as the call would have: a
lease that hangs in a line could not be seen to lapse. Whoever keeps it asks again each second, so that one request of
leases goes out in the rhythm of the probes, and all of them as soon as one was taken. That rhythm is never slower than
a quarter of the ack deadline: extensions start at half-life, so an outage that ends before the deadline leaves time for
them.
"""

from __future__ import annotations

import enum
import math
import random
from dataclasses import dataclass

OPEN_AFTER = 5
OPEN_AFTER_S = 2.0
"""So many failures in a row, over at least this time: a restart of a server that takes a moment is no outage, and the
backoff of each caller bounds what is sent until then (about five requests from each)."""

PROBE_FIRST_S, PROBE_LAST_S = 0.5, 5.0
"""Probes come at intervals that double between these, less up to a half at random. The last one is how late the end of
an outage may be noticed; one small request in that time is nothing to the service."""

PROBES_PER_DEADLINE = 4
"""At least so many probes in an ack deadline; see above."""

PATIENCE = 4.0
"""RESOURCE_EXHAUSTED stretches the intervals by this: the quota of a whole project is shared."""

FORGET_S = 60.0
"""When nobody has wanted to call for this long, old failures say nothing of now."""


class State(enum.Enum):
    """Whether calls are made."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half open"


@dataclass(frozen=True)
class Outage:
    """Failures without a success since `since` (the clock's time), the newest with this code and these words."""

    since: float
    failures: int
    code: str
    words: str


class Breaker:
    """Decides who may call. Every call that `begin` let through ends with `worked`, `failed` or `gave_up`.

    `probe` of these is what `begin` returned. Times are seconds of the clock.
    """

    def __init__(self, rng: random.Random, *, deadline_s: float = math.inf) -> None:
        self.state = State.CLOSED
        self.outage: Outage | None = None
        self.opened = 0
        """How often it has opened."""
        self._rng = rng
        self._deadline_s = deadline_s
        self._probes = 0
        self._probe_at = 0.0
        self._asked_at = 0.0

    def __repr__(self) -> str:
        """Such as `<Breaker open: UNAVAILABLE, 7 failures>`."""
        outage = "" if self.outage is None else f": {self.outage.code}, {self.outage.failures} failures"
        return f"<Breaker {self.state.value}{outage}>"

    def wait_s(self, now: float) -> float:
        """How long a call must wait at least; 0: `begin` it now; infinite: until the probe under way has ended."""
        self._asked_at = now
        if self.state is State.CLOSED:
            return 0.0
        return math.inf if self.state is State.HALF_OPEN else max(self._probe_at - now, 0.0)

    def begin(self) -> bool:
        """A call is made, for which `wait_s` was 0. True: it is the probe."""
        if self.state is State.CLOSED:
            return False
        assert self.state is State.OPEN, "one probe at a time"
        self.state = State.HALF_OPEN
        return True

    def worked(self) -> bool:
        """The service answered a call, whatever it said. True when that ends an outage that had opened this."""
        was_open = self.state is not State.CLOSED
        self.state, self.outage, self._probes = State.CLOSED, None, 0
        return was_open

    def failed(self, now: float, code: str, words: str, *, probe: bool) -> bool:
        """A call failed in a way that may pass. True when that opens it.

        A call that began before it opened says nothing new: only the probe counts.
        """
        if self.state is not State.CLOSED and not probe:
            return False
        last = self.outage
        outage = Outage(now, 1, code, words) if last is None else Outage(last.since, last.failures + 1, code, words)
        self.outage = outage
        if self.state is State.HALF_OPEN:
            self._open(now, code)
        elif self.state is State.CLOSED and outage.failures >= OPEN_AFTER and now - outage.since >= OPEN_AFTER_S:
            self.opened += 1
            self._open(now, code)
            return True
        return False

    def gave_up(self, now: float, *, probe: bool) -> None:
        """A call ended without an answer for reasons of its own: the next one that asks is the probe."""
        if probe and self.state is State.HALF_OPEN:
            self.state, self._probe_at = State.OPEN, now

    def judge(self, now: float) -> None:
        """Forget an outage that nobody has asked about for `FORGET_S`."""
        if self.state is not State.HALF_OPEN and now - self._asked_at >= FORGET_S:
            self.worked()

    def _open(self, now: float, code: str) -> None:
        self.state = State.OPEN
        scale = PATIENCE if code == "RESOURCE_EXHAUSTED" else 1.0
        longest_s = min(PROBE_LAST_S, PROBE_FIRST_S * 2 ** min(self._probes, 16)) * scale
        longest_s = min(longest_s, self._deadline_s / PROBES_PER_DEADLINE)
        self._probe_at = now + self._rng.uniform(longest_s / 2, longest_s)
        self._probes += 1
