"""Where callers of one kind wait for their turn: a breaker on the loop, with its words for people."""

from __future__ import annotations

import asyncio
import contextlib
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


class Gate:
    """The breaker of one kind of call of a subscription, or of a topic. Says when it opens and closes."""

    def __init__(
        self, kind: Kind, resource: str, *, clock: Clock, rng: random.Random, deadline_s: float = math.inf
    ) -> None:
        self.kind = kind
        self._of = {"topic" if kind == "topic" else "subscription": resource}
        self._clock = clock
        self._breaker = Breaker(rng, deadline_s=deadline_s)
        self._moved = asyncio.Event()

    def __repr__(self) -> str:
        """Such as `<Gate pull: <Breaker closed>>`."""
        return f"<Gate {self.kind}: {self._breaker!r}>"

    async def turn(self, pause_s: float = 0.0) -> Turn:
        """Wait for `pause_s`, the caller's own backoff, and then until a call may be made. Safe to cancel.

        While the breaker is open its rhythm stands in place of that backoff, which would be longer after a while; and
        when the outage ends meanwhile, the backoff ends too.
        """
        if pause_s > 0 and self._breaker.state is State.CLOSED:
            await self._wait(pause_s)
        while (wait_s := self._breaker.wait_s(self._clock())) > 0:
            await self._wait(wait_s)
        return Turn(self, probe=self._breaker.begin())

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
            self._wake()

    def failed(self, code: str, words: str, *, probe: bool) -> None:
        """See `Turn`."""
        if self._breaker.failed(self._clock(), code, words, probe=probe):
            events.BreakerOpened(**self._of, call=self.kind, code=code, error=words).emit()
            self._wake()
        elif probe:
            self._wake()

    def gave_up(self, *, probe: bool) -> None:
        """See `Turn`."""
        self._breaker.gave_up(self._clock(), probe=probe)
        if probe:
            self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    async def _wait(self, longest_s: float) -> None:
        """Until something moved, for at most so long."""
        moved = self._moved
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if longest_s == math.inf else longest_s):
                await moved.wait()


class Turn:
    """One call that a gate let through, for a `with` block. What is said of it first counts; nothing said: given up."""

    def __init__(self, gate: Gate, *, probe: bool) -> None:
        self._gate = gate
        self._probe = probe
        self._said = False

    def __enter__(self) -> Self:
        """The call begins."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The call is over."""
        if not self._said:
            self._said = True
            self._gate.gave_up(probe=self._probe)

    def worked(self) -> None:
        """The service answered, whatever it said."""
        if not self._said:
            self._said = True
            self._gate.worked()

    def failed(self, code: str, words: str) -> None:
        """It failed in a way that may pass."""
        if not self._said:
            self._said = True
            self._gate.failed(code, words, probe=self._probe)
