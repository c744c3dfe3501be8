"""Who may call now, for calls of one kind: a breaker with a clock, and its words for people. Sans-I/O."""

from __future__ import annotations

import math
import random
from types import TracebackType
from typing import Literal, Self, TypeAlias

from penstock.clock import Clock
from penstock.pubsub.breaker import Breaker, State
from penstock.telemetry import events

TROUBLE_S = 5.0
"""An outage this old is told to the drivers: earlier, it may be over before anybody has read of it."""

Kind: TypeAlias = Literal["pull", "acknowledge", "modify", "publish", "topic"]

_DOING = {
    "pull": "messages cannot be pulled",
    "acknowledge": "messages cannot be acknowledged",
    "modify": "leases cannot be extended",
    "publish": "dead letters cannot be published",
    "topic": "messages cannot be published",
}


class Turns:
    """The breaker of one kind of call of a subscription, or of a topic. Says when it opens and closes.

    Whoever lets callers wait overrides `moved`.
    """

    def __init__(
        self, kind: Kind, resource: str, *, clock: Clock, rng: random.Random, deadline_s: float = math.inf
    ) -> None:
        self.kind = kind
        self._of = {"topic" if kind == "topic" else "subscription": resource}
        self._clock = clock
        self._breaker = Breaker(rng, deadline_s=deadline_s)

    def __repr__(self) -> str:
        """Such as `<Turns pull: <Breaker closed>>`."""
        return f"<{type(self).__name__} {self.kind}: {self._breaker!r}>"

    def take(self, pause_s: float = 0.0) -> Turn | float:
        """A turn, or for how long to wait: so long, or until `moved`, and then ask again, without `pause_s`.

        `pause_s` is the caller's own backoff. While the breaker is open its rhythm stands in place of it, which would
        be longer after a while; and when the outage ends meanwhile, the backoff ends too.
        """
        if pause_s > 0 and self._breaker.state is State.CLOSED:
            return pause_s
        wait_s = self._breaker.wait_s(self._clock())
        return wait_s if wait_s > 0 else Turn(self, probe=self._breaker.begin())

    def turn_now(self) -> Turn | None:
        """A turn, if a call may be made at once."""
        if self._breaker.wait_s(self._clock()) > 0:
            return None
        return Turn(self, probe=self._breaker.begin())

    def reason(self) -> tuple[str, str]:
        """Code and words of the newest failure; empty when the last call worked."""
        outage = self._breaker.outage
        return ("", "") if outage is None else (outage.code, outage.words)

    def trouble(self) -> str | None:
        """What is wrong for longer than `TROUBLE_S`, for the user of a query; None when nothing is."""
        now = self._clock()
        self._breaker.judge(now)
        outage = self._breaker.outage
        if self._breaker.state is State.CLOSED or outage is None or now - outage.since < TROUBLE_S:
            return None
        return f"{_DOING[self.kind]} for {now - outage.since:.0f} s: {outage.code}: {outage.words}"

    def figures(self) -> dict[str, object]:
        """For `status` and metrics. `failing_s`: time since the first failure without a success after it."""
        now = self._clock()
        self._breaker.judge(now)
        outage, state = self._breaker.outage, self._breaker.state
        return {
            "state": state.value,
            "open": state is not State.CLOSED,
            "opened": self._breaker.opened,
            "failures": 0 if outage is None else outage.failures,
            "failing_s": None if outage is None else now - outage.since,
            "code": None if outage is None else outage.code,
            "error": None if outage is None else outage.words,
        }

    # --- said by turns ------------------------------------------------------------------------------------------

    def worked(self) -> None:
        """See `Turn`."""
        outage = self._breaker.outage
        if self._breaker.worked():
            assert outage is not None, "an open breaker knows why"
            lasted_s = self._clock() - outage.since
            events.BreakerClosed(**self._of, call=self.kind, failed_s=round(lasted_s, 3)).emit()
            self.moved()

    def failed(self, code: str, words: str, *, probe: bool) -> None:
        """See `Turn`."""
        if self._breaker.failed(self._clock(), code, words, probe=probe):
            events.BreakerOpened(**self._of, call=self.kind, code=code, error=words).emit()
            self.moved()
        elif probe:
            self.moved()

    def gave_up(self, *, probe: bool) -> None:
        """See `Turn`."""
        self._breaker.gave_up(self._clock(), probe=probe)
        if probe:
            self.moved()

    def moved(self) -> None:
        """Whoever waits may ask again: it opened or closed, or a probe has ended."""


class Turn:
    """One call that may be made, for a `with` block. What is said of it first counts; nothing said: given up."""

    def __init__(self, turns: Turns, *, probe: bool) -> None:
        self._turns = turns
        self._probe = probe
        self._said = False

    def __enter__(self) -> Self:
        """The call begins."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The call is over."""
        self.gave_up()

    def worked(self) -> None:
        """The service answered, whatever it said."""
        if not self._said:
            self._said = True
            self._turns.worked()

    def failed(self, code: str, words: str) -> None:
        """It failed in a way that may pass."""
        if not self._said:
            self._said = True
            self._turns.failed(code, words, probe=self._probe)

    def gave_up(self) -> None:
        """It ended without an answer, for reasons of its own."""
        if not self._said:
            self._said = True
            self._turns.gave_up(probe=self._probe)
