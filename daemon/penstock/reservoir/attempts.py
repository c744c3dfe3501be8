"""How often messages were handed to a reader and came back, counted by this node as well as it can."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from penstock.reservoir.ordering import hashes_of

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

    def came_back(self, message_ids: pa.Array, now: float) -> None:
        """One more delivery of these (a string array) was in vain."""
        fresh = self._times > now - KEEP_S
        hashes = np.concatenate((self._hashes[fresh], hashes_of(message_ids)))
        counts = np.concatenate((self._counts[fresh], np.ones(len(message_ids), np.int32)))
        times = np.concatenate((self._times[fresh], np.full(len(message_ids), now)))
        unique, where = np.unique(hashes, return_inverse=True)
        summed = np.bincount(where, counts, len(unique)).astype(np.int32)
        newest = np.zeros(len(unique))
        np.maximum.at(newest, where, times)
        keep = np.sort(np.argsort(newest, kind="stable")[-KEEP_ROWS:])
        self._hashes, self._counts, self._times = unique[keep], summed[keep], newest[keep]

    def counts(self, message_ids: pa.Array, now: float) -> np.ndarray:
        """How many deliveries of each were in vain (int32, row by row)."""
        wanted = hashes_of(message_ids)
        at = np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
        found = (self._hashes[at] == wanted) & (self._times[at] > now - KEEP_S)
        counts: np.ndarray = np.where(found, self._counts[at], 0).astype(np.int32)
        return counts
