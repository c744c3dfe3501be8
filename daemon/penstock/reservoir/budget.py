"""The memory budget: every buffer counts from the moment it is decoded until its last holder is gone."""

from __future__ import annotations

import weakref
from collections import deque
from dataclasses import dataclass, field


class Allocation:
    """A claim on the budget. Whoever can reach the buffers holds it; when the last holder drops it, it is given back.

    The interpreter's reference count is the ledger here, because the last holder may be a Flight thread in the middle
    of a send: nothing that could be forgotten has to be called.
    """

    __slots__ = ("__weakref__", "size_bytes")

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes


@dataclass(eq=False)
class Share:
    """What one subscription uses of the budget. `claim` on the loop, giving back on any thread."""

    weight: float = 1.0
    active: bool = False
    _used: int = 0
    _returned: deque[int] = field(default_factory=deque)

    @property
    def used_bytes(self) -> int:
        """Bytes in use; settles what other threads gave back."""
        while self._returned:
            self._used -= self._returned.popleft()
        return self._used

    def claim(self, size_bytes: int) -> Allocation:
        """Count `size_bytes` until the allocation is unreachable."""
        allocation = Allocation(size_bytes)
        self._used += size_bytes
        # `deque.append` is atomic: the finalizer runs on whichever thread dropped the last reference.
        weakref.finalize(allocation, self._returned.append, size_bytes).atexit = False
        return allocation


class Budget:
    """`limit_bytes` divided among active subscriptions by weight; what idle ones do not use is lent.

    Pausing has two named marks, fractions of the limit: a share that reached `high` pauses until it is below `low`.
    """

    def __init__(self, limit_bytes: int, *, high: float, low: float) -> None:
        if not 0 < low < high <= 1:
            raise ValueError(f"budget marks: 0 < low < high <= 1 is needed, not low={low}, high={high}")
        self.limit_bytes = limit_bytes
        self.high = high
        self.low = low
        self._shares: list[Share] = []
        self._paused: weakref.WeakSet[Share] = weakref.WeakSet()

    def share(self, weight: float = 1.0) -> Share:
        """A new share, inactive at first."""
        share = Share(weight)
        self._shares.append(share)
        return share

    def forget(self, share: Share) -> None:
        """A share that is not used any more, and never will be."""
        assert not share.used_bytes, "what is claimed must stay counted"
        self._shares.remove(share)

    @property
    def used_bytes(self) -> int:
        """All shares together."""
        return sum(share.used_bytes for share in self._shares)

    def share_bytes(self, share: Share) -> int:
        """What is guaranteed to this share: its part of the limit among the active ones and itself, at least a byte."""
        total = sum(other.weight for other in self._shares if other.active or other is share)
        return max(int(self.limit_bytes * share.weight / total), 1)

    def paused(self, share: Share) -> bool:
        """Whether this share must stop taking messages in.

        A share pauses at `high` of its part, which is larger while others are inactive, and resumes below `low`. One
        below its part pauses only when nothing is left at all: others may still hold what they had been lent.
        """
        mark = self.low if share in self._paused else self.high
        paused = share.used_bytes >= mark * self.share_bytes(share) or self.used_bytes >= self.limit_bytes
        (self._paused.add if paused else self._paused.discard)(share)
        return paused
