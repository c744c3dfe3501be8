"""Which parcel of a write may go next: any without a key, and of each key one at a time. Sans-I/O."""

from __future__ import annotations

from collections import deque

from penstock.publish.parcels import Parcel

Key = tuple[str, str]
"""Topic and ordering key."""

LAG_CUTS = 32
"""A key so far behind stands still while others go on. Its few rows would hold the memory of all that they were cut
from, up to 5 MB a time, of which nothing is counted: they are encoded at once, which they would be later anyway."""


class Line:
    """Parcels that wait for their turn. One that `next` gave out is under way until `done` or `stop`.

    `waiting` and `under_way` count them; those behind a key that was stopped are neither.
    """

    def __init__(self) -> None:
        self.under_way = 0
        self.waiting = 0
        self._ready: deque[Parcel] = deque()
        self._behind: dict[Key, deque[Parcel]] = {}
        """Parcels behind one of their key that is ready or under way; a key without any is here, too."""
        self._stopped: set[Key] = set()

    def push(self, parcel: Parcel) -> bool:
        """Put at the end. False: its key was stopped, so that it will not be sent."""
        key = parcel.topic, parcel.key
        if key in self._stopped:
            return False
        self.waiting += 1
        if not parcel.key:
            self._ready.append(parcel)
        elif key in self._behind:
            behind = self._behind[key]
            if behind and parcel.cut - behind[0].cut >= LAG_CUTS:
                parcel.encode()
            behind.append(parcel)
        else:
            self._behind[key] = deque()
            self._ready.append(parcel)
        return True

    def next(self) -> Parcel | None:
        """The first that may go; it counts as under way."""
        if not self._ready:
            return None
        self.under_way += 1
        self.waiting -= 1
        return self._ready.popleft()

    def done(self, parcel: Parcel) -> None:
        """It was confirmed: the next one of its key may go."""
        self.under_way -= 1
        if not parcel.key:
            return
        key = parcel.topic, parcel.key
        if behind := self._behind[key]:
            self._ready.append(behind.popleft())
        else:
            del self._behind[key]

    def stop(self, parcel: Parcel) -> list[Parcel]:
        """It failed for good: those behind it, which must not overtake it. Without a key there are none."""
        self.under_way -= 1
        if not parcel.key:
            return []
        key = parcel.topic, parcel.key
        self._stopped.add(key)
        behind = list(self._behind.pop(key))
        self.waiting -= len(behind)
        return behind

    def clear(self) -> list[Parcel]:
        """Everything that waits, which will not be sent."""
        left = [*self._ready, *(parcel for parcels in self._behind.values() for parcel in parcels)]
        self._ready.clear()
        for parcels in self._behind.values():
            parcels.clear()
        self.waiting = 0
        return left
