"""Something moved: how those who wait on the loop are told to look again."""

from __future__ import annotations

import asyncio


class Change:
    """Told as often as anything may have changed; who waits looks for itself whether it is what was waited for."""

    def __init__(self) -> None:
        self._moved = asyncio.Event()

    def tell(self) -> None:
        """Let everybody who waits look again."""
        self._moved.set()
        self._moved = asyncio.Event()

    async def wait(self) -> None:
        """Return when told the next time. Safe to cancel."""
        await self._moved.wait()
