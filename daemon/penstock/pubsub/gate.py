"""Where callers of one kind wait on the loop for their turn."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random

from penstock.clock import Clock
from penstock.pubsub.turns import Kind, Turn, Turns


class Gate(Turns):
    """Turns that coroutines wait for."""

    def __init__(
        self, kind: Kind, resource: str, *, clock: Clock, rng: random.Random, deadline_s: float = math.inf
    ) -> None:
        super().__init__(kind, resource, clock=clock, rng=rng, deadline_s=deadline_s)
        self._moved = asyncio.Event()

    async def turn(self, pause_s: float = 0.0) -> Turn:
        """Wait for `pause_s`, the caller's own backoff (see `take`), and until a call may be made. Safe to cancel."""
        while not isinstance(turn := self.take(pause_s), Turn):
            await self.wait(turn)
            pause_s = 0.0
        return turn

    async def wait(self, longest_s: float) -> None:
        """Until something moved, for at most so long."""
        moved = self._moved
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if longest_s == math.inf else longest_s):
                await moved.wait()

    def moved(self) -> None:
        """Wake all that wait."""
        self._moved.set()
        self._moved = asyncio.Event()
