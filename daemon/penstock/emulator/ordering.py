"""Which stream may have the next message of an ordering key: one stream at a time, for as long as any of it is out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Keys are watched by bucket of their hash: two keys in one bucket are merely kept on one stream.
_BUCKETS = 1 << 16
_MASK = np.uint64(_BUCKETS - 1)


class KeyGate:
    """For each bucket of keys how many messages are out, who has them, and until when it is held back.

    Keys come as 64-bit hashes, 0 meaning none. Messages without a key pass always.
    """

    def __init__(self) -> None:
        self._out = np.zeros(_BUCKETS, np.int64)
        self._owner = np.zeros(_BUCKETS, np.int64)
        self._held_until = np.full(_BUCKETS, -np.inf)

    def passes(self, keys: NDArray[np.uint64], holder: int, now: float) -> NDArray[np.bool_]:
        """Whether each may be given to the stream `holder` now."""
        buckets = self._buckets(keys)
        free: NDArray[np.bool_] = (self._out[buckets] == 0) | (self._owner[buckets] == holder)
        free &= self._held_until[buckets] <= now
        free |= keys == 0
        return free

    def give(self, keys: NDArray[np.uint64], holder: int) -> None:
        """They are out to `holder`."""
        buckets = self._buckets(keys[keys != 0])
        np.add.at(self._out, buckets, 1)
        self._owner[buckets] = holder

    def back(self, keys: NDArray[np.uint64]) -> None:
        """They are out no more."""
        np.subtract.at(self._out, self._buckets(keys[keys != 0]), 1)

    def hold(self, keys: NDArray[np.uint64], until: NDArray[np.float64]) -> None:
        """Let nothing of these keys pass before the time (a nack under a retry policy)."""
        keyed = keys != 0
        np.maximum.at(self._held_until, self._buckets(keys[keyed]), until[keyed])

    @staticmethod
    def _buckets(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        return (keys & _MASK).astype(np.int64)
