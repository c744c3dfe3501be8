"""How often messages were handed to a reader and came back, counted by this node as well as it can."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from penstock.reservoir.id_table import hashes_of

KEEP_S = 24 * 3600.0
"""A message that kills its reader comes back after each `consumer_timeout_s`, and people need a while to restart."""

KEEP_ROWS = 250_000
"""At most so many, in 6 MB; the ones that came back longest ago make room."""


class Attempts:
    """A bounded, expiring count of deliveries that failed, by message ID.

    A best effort of one node: memory of this process only, and by a 64-bit hash, so that a chunk is looked up in well
    under a millisecond.
    """

    def __init__(self) -> None:
        self._hashes = np.empty(0, np.uint64)
        self._counts = np.empty(0, np.int32)
        self._times = np.empty(0, np.float64)

    def __len__(self) -> int:
        """Message IDs."""
        return len(self._hashes)

    def came_back(self, message_ids: Sequence[pa.Array], now: float) -> None:
        """One more delivery of these (string arrays) was in vain. A quarter of a microsecond each."""
        fresh, new = self._times > now - KEEP_S, [hashes_of(ids) for ids in message_ids]
        rows = sum(len(hashes) for hashes in new)
        counts = np.concatenate((np.ones(rows, np.int32), self._counts[fresh]))
        times = np.concatenate((np.full(rows, now), self._times[fresh]))
        # The new ones come first, and so does the time of the first one of each.
        self._hashes, first, where = np.unique(
            np.concatenate((*new, self._hashes[fresh])), return_index=True, return_inverse=True
        )
        self._counts, self._times = np.bincount(where, counts, len(first)).astype(np.int32), times[first]
        if len(first) > KEEP_ROWS:
            keep = np.sort(np.argpartition(self._times, -KEEP_ROWS)[-KEEP_ROWS:])
            self._hashes, self._counts, self._times = self._hashes[keep], self._counts[keep], self._times[keep]

    def counts(self, message_ids: pa.Array, now: float) -> np.ndarray:
        """How many deliveries of each were in vain (int32, row by row)."""
        wanted = hashes_of(message_ids)
        at = np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
        found = (self._hashes[at] == wanted) & (self._times[at] > now - KEEP_S)
        counts: np.ndarray = np.where(found, self._counts[at], 0).astype(np.int32)
        return counts
