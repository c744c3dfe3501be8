"""Something moved: how those who wait on the loop are told to look again."""

from __future__ import annotations

import asyncio
import contextlib
import math


class Change:
    """Told as often as anything may have changed; who waits looks for itself whether it is what was waited for."""

    def __init__(self) -> None:
        self._moved = asyncio.Event()

    def tell(self) -> None:
        """Let everybody who waits look again."""
        self._moved.set()
        self._moved = asyncio.Event()

    async def wait(self, longest_s: float = math.inf) -> None:
        """Return when told the next time, or after so long. Safe to cancel."""
        moved = self._moved
        if longest_s == math.inf:
            await moved.wait()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await moved.wait()
