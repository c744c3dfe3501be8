"""What all writes together may hold and send at a time, and a way to wait for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

from penstock.change import Change

WINDOW_BYTES = 16 << 20
"""Of requests under way: 320 MB/s at 50 ms to the service and back. What is sent besides waits in this process."""


class Flow:
    """`max_bytes` of rows that were taken and are not confirmed, `max_requests` under way.

    A write that holds nothing may always take one record batch more, and a request may always go when none is under
    way: nobody waits for ever for somebody else's end.
    """

    def __init__(self, *, max_requests: int, max_bytes: int) -> None:
        self.held_bytes = 0
        self.requests = 0
        self._window_bytes = 0
        self.max_requests = max_requests
        self._max_bytes = max_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._moved = Change()

    def hold(self, change_bytes: int) -> None:
        """A write took rows, or let some go."""
        self.held_bytes += change_bytes
        if change_bytes < 0:
            self._moved.tell()

    def has_room(self, own_bytes: int) -> bool:
        """Whether a write that holds `own_bytes` may take more."""
        return not own_bytes or self.held_bytes < self._max_bytes

    async def moved(self) -> None:
        """Wait until somebody let go of something."""
        await self._moved.wait()

    def wake(self) -> None:
        """Let those who wait look again."""
        self._moved.tell()

    @contextlib.asynccontextmanager
    async def slot(self, size_bytes: int) -> AsyncIterator[None]:
        """Wait until a request of this size may go, and let the next ones go at the end of the block. Safe to cancel.

        In the order of asking: a large one would wait for ever behind small ones that need less room.
        """
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size_bytes, turn))
        self._let_go()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._let_go()
            else:  # it was its turn already
                self._done(size_bytes)
            raise
        try:
            yield
        finally:
            self._done(size_bytes)

    def _let_go(self) -> None:
        while self._waiting:
            size_bytes, turn = self._waiting[0]
            full = self.requests >= self.max_requests or self._window_bytes + size_bytes > WINDOW_BYTES
            if self.requests and full and not turn.cancelled():
                return
            self._waiting.popleft()
            if not turn.cancelled():
                self.requests += 1
                self._window_bytes += size_bytes
                turn.set_result(None)

    def _done(self, size_bytes: int) -> None:
        self.requests -= 1
        self._window_bytes -= size_bytes
        self._let_go()
