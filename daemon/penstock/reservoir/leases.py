"""Keeps the ack deadlines of chunks running: decides what to extend and what has lapsed; the caller acts."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from penstock.reservoir.chunk import Chunk, Lease

RETRY_AFTER_S = 1.0
"""A failed extension is tried again after this; at the shortest deadline (10 s) that leaves four more attempts."""


@dataclass(frozen=True)
class Extend:
    """Renew these leases now."""

    leases: tuple[Lease, ...]


@dataclass(frozen=True)
class Lapse:
    """The deadline of these chunks ran out (`max_lease_s`, or extensions that failed): nobody may count on them."""

    chunks: tuple[Chunk, ...]


class Leases:
    """All leases of one subscription, ordered by when they want attention."""

    def __init__(self, deadline_s: float, max_lease_s: float) -> None:
        self.deadline_s = deadline_s
        self.max_lease_s = max_lease_s
        self.refused = False
        """Whether the service says no for good: then a failed extension is no reason to ask again soon."""
        self._heap: list[tuple[float, int, Lease]] = []
        self._count = 0

    def hold(self, chunk: Chunk, until: float, *, receipt: bool = False, lapsed: bool = False) -> None:
        """Keep a chunk's deadline, which is `until` now; with `receipt` the first extension is due at once.

        `lapsed`: it had run out before for some of the messages.
        """
        when = chunk.received_at if receipt else until - self.deadline_s / 2
        lease = Lease(chunk, until, receipt=receipt)
        lease.lapsed = lapsed
        self._push(when, lease)

    def due(self, now: float, bounded: Callable[[Chunk], bool]) -> list[Extend | Lapse]:
        """What to do now. `bounded` tells whether `max_lease_s` holds for a chunk (it does for unsealed ones)."""
        extend, lapse = [], []
        for lease in self._pop_due(now):
            chunk = lease.chunk
            assert chunk is not None
            if lease.until <= now:
                lease.lapsed = True
            if bounded(chunk) and (lease.lapsed or now - chunk.received_at >= self.max_lease_s):
                lapse.append(chunk)
            else:
                extend.append(lease)
        work: list[Extend | Lapse] = []
        if lapse:
            work.append(Lapse(tuple(lapse)))
        if extend:
            work.append(Extend(tuple(extend)))
        return work

    def extended(self, work: Extend, sent_at: float, now: float, *, confirmed: bool) -> None:
        """How an `Extend` ended. The new deadline runs from when it was sent: the service got it later."""
        for lease in work.leases:
            if lease.chunk is None:
                continue
            if confirmed:
                lease.receipt = False
                lease.until = sent_at + self.deadline_s
                self._push(lease.until - self.deadline_s / 2, lease)
            else:
                self._push(now + (self.deadline_s / 2 if self.refused else RETRY_AFTER_S), lease)

    def ask_again(self, now: float) -> None:
        """The service may have changed its mind: all that is past its half-life is due at once."""
        self.refused = False
        half_s = self.deadline_s / 2
        self._heap = [
            (now if lease.until - half_s <= now < when else when, count, lease) for when, count, lease in self._heap
        ]
        heapq.heapify(self._heap)

    def _pop_due(self, now: float) -> Iterator[Lease]:
        while self._heap and self._heap[0][0] <= now:
            lease = heapq.heappop(self._heap)[2]
            if lease.chunk is not None:
                yield lease

    def _push(self, when: float, lease: Lease) -> None:
        self._count += 1  # breaks ties, so that leases are never compared
        heapq.heappush(self._heap, (when, self._count, lease))
