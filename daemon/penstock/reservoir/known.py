"""Message IDs that were committed although their ack may not have held: a redelivery is acknowledged and dropped."""

from __future__ import annotations

from collections import deque

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

REMEMBER_S = 600.0
REMEMBER_ROWS = 100_000
"""Both from design.md, section 4: a best effort of one node that bounds its own memory."""


class RememberedIds:
    """A bounded, expiring set of message IDs."""

    def __init__(self) -> None:
        self._parts: deque[tuple[float, pa.Array]] = deque()
        self._set: pa.Array | None = None

    def __len__(self) -> int:
        """IDs."""
        return sum(len(ids) for _, ids in self._parts)

    def remember(self, message_ids: pa.Array, now: float) -> None:
        """Add IDs (a string array); the oldest make room."""
        # Copied, since a slice would keep the whole chunk's buffer alive.
        self._parts.append((now + REMEMBER_S, pa.concat_arrays([message_ids[-REMEMBER_ROWS:]])))
        while len(self) > REMEMBER_ROWS:
            self._parts.popleft()
        self._set = None

    def known(self, message_ids: pa.Array, now: float) -> np.ndarray | None:
        """Which of these are remembered (bool, row by row); None when none is, which costs nothing if none can be."""
        while self._parts and self._parts[0][0] <= now:
            self._parts.popleft()
            self._set = None
        if not self._parts:
            return None
        if self._set is None:
            self._set = pa.concat_arrays([ids for _, ids in self._parts])
        found: np.ndarray = pc.is_in(message_ids, value_set=self._set).to_numpy(zero_copy_only=False)
        return found if found.any() else None
