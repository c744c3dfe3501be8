"""How much one subscription may take in: when pulling stands still, and how large a seal may be."""

from __future__ import annotations

from collections import deque

from penstock.clock import Clock
from penstock.reservoir.budget import Budget, Share
from penstock.reservoir.holdings import Holdings
from penstock.reservoir.notes import Notes

SEAL_FRACTION = 3
"""A seal takes at most this part (one third) of the share, so that the next batch fills while one is being read."""

RECENT_SEALS = 3
"""The queue may hold twice what the largest of these last batches took: the rest is somebody else's to pull."""

PAUSE_LOOK_S = 0.002
"""Pull streams ask for each response whether to go on; finding out costs as much as reading one. In this time a stream
brings a megabyte or two more."""

SATURATED = 0.8
"""Held bytes over the streams' flow control at which the service counts as stopped. It counts messages a little
differently than our buffers do, so the mark is below 1; too low only lets a minimum of rows be met early."""


class Intake:
    """Decides from the share, the queue and the last seals. `draining`: nothing is wanted any more."""

    def __init__(
        self, *, budget: Budget, share: Share, holdings: Holdings, notes: Notes, clock: Clock, max_buffer_age_s: float
    ) -> None:
        self.draining = False
        self._budget = budget
        self._share = share
        self._holdings = holdings
        self._queue = holdings.queue
        self._notes = notes
        self._clock = clock
        self._max_buffer_age_s = max_buffer_age_s
        self._recent_seals: deque[int] = deque(maxlen=RECENT_SEALS)
        self._paused = False
        self._look_again_at = float("-inf")

    @property
    def share_bytes(self) -> int:
        """This subscription's part of the budget."""
        return self._budget.share_bytes(self._share)

    @property
    def seal_bytes(self) -> int:
        """The most that a seal takes."""
        return max(self.share_bytes // SEAL_FRACTION, 1)

    @property
    def paused(self) -> bool:
        """Whether pulling must stand still, as of `PAUSE_LOOK_S` ago."""
        now = self._clock()
        if now >= self._look_again_at:
            self._paused, self._look_again_at = self.pause_reason is not None, now + PAUSE_LOOK_S
        return self._paused

    @property
    def pause_reason(self) -> str | None:
        """`drain`, `disk`, `memory`, `leases`, `age` or `queue`; None while messages are welcome."""
        if self.draining:
            return "drain"
        if self._notes.problem is not None:
            return "disk"
        if self._budget.paused(self._share):
            return "memory"
        if self._holdings.behind(self._clock()):
            return "leases"
        oldest = self._queue.oldest_received_at()
        if oldest is not None and self._clock() - oldest > self._max_buffer_age_s:
            return "age"
        enough = max(self.seal_bytes, 2 * max(self._recent_seals, default=0))
        return "queue" if self._queue.bytes > enough else None

    def look_at_once(self) -> None:
        """Let the next look at `paused` be a fresh one."""
        self._look_again_at = float("-inf")

    def sealed(self, size_bytes: int) -> None:
        """A seal took so much."""
        self._recent_seals.append(size_bytes)

    def saturated(self, sealed_bytes: int, limit_bytes: int) -> bool:
        """Whether the service sends nothing more before something is acknowledged: the streams are full.

        `limit_bytes`: what the streams' flow control allows. Who waits for more rows would wait for ever.
        """
        return 0 < SATURATED * limit_bytes <= self._queue.bytes + sealed_bytes
