"""Keeps the ack deadlines of chunks running: decides what to extend and what has lapsed; the caller acts."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

from penstock.reservoir.chunk import Chunk, Lease

RETRY_AFTER_S = 1.0
"""A failed extension is tried again after this; at the shortest deadline (10 s) that leaves four more attempts."""

MOST_FLYING_ROWS = 40_000
"""Twice what all senders of a subscription have under way (8 requests of 2,500 IDs), so that none waits for work. What
is due beyond stays here: until its turn comes it may be settled, lapse, or be delivered again with other ack IDs. With
more, a daemon that falls behind sends nothing but extensions that come too late."""

BEHIND = 1 / 8
"""Of a deadline: so late after its half-life an extension may be before new messages only make it worse."""


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
        self._flying_rows = 0
        self.waiting = False
        """Whether more was due than may be under way: whoever hears of an end then asks again."""

    def hold(self, chunk: Chunk, until: float, *, receipt: bool = False, lapsed: bool = False) -> None:
        """Keep a chunk's deadline, which is `until` now; with `receipt` the first extension is due at once.

        `lapsed`: it had run out before for some of the messages.
        """
        when = chunk.received_at if receipt else until - self.deadline_s / 2
        lease = Lease(chunk, until, receipt=receipt)
        lease.lapsed = lapsed
        self._push(when, lease)

    def due(self, now: float, bounded: Callable[[Chunk], bool], *, room_only: bool = False) -> list[Extend | Lapse]:
        """What to do now. `bounded` tells whether `max_lease_s` holds for a chunk (it does for unsealed ones).

        Every `Extend` is to be answered by `extended`. `room_only`: look no further than there is room for extensions.
        """
        extend: list[Lease] = []
        lapse: list[Chunk] = []
        back: list[tuple[float, int, Lease]] = []
        self.waiting = False
        while self._heap and self._heap[0][0] <= now:
            full = self._flying_rows >= MOST_FLYING_ROWS
            if full and room_only:
                self.waiting = True
                break
            entry = heapq.heappop(self._heap)
            lease, chunk = entry[2], entry[2].chunk
            if chunk is None:
                continue
            if lease.until <= now:
                lease.lapsed = True
            if bounded(chunk) and (lease.lapsed or now - chunk.received_at >= self.max_lease_s):
                lapse.append(chunk)
            elif full:
                back.append(entry)
            else:
                lease.flying_rows = len(chunk)
                self._flying_rows += lease.flying_rows
                extend.append(lease)
        if back:
            self.waiting = True
            self._heap = back + self._heap  # all of them come before all that is left
            heapq.heapify(self._heap)
        work: list[Extend | Lapse] = []
        if lapse:
            work.append(Lapse(tuple(lapse)))
        if extend:
            work.append(Extend(tuple(extend)))
        return work

    def extended(self, work: Extend, sent_at: float, now: float, *, confirmed: bool) -> None:
        """How an `Extend` ended. The new deadline runs from when it was sent: the service got it later."""
        for lease in work.leases:
            self._flying_rows -= lease.flying_rows
            lease.flying_rows = 0
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

    def behind(self, now: float) -> bool:
        """Whether extensions are so late that what is held may not be kept."""
        return bool(self._heap) and now - self._heap[0][0] > self.deadline_s * BEHIND

    def _push(self, when: float, lease: Lease) -> None:
        self._count += 1  # breaks ties, so that leases are never compared
        heapq.heappush(self._heap, (when, self._count, lease))
