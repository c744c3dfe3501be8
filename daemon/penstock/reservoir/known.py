"""Message IDs that were committed although their ack may not have held: a redelivery is acknowledged and dropped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.reservoir.id_table import Hashes, Rows, hashes_of

REMEMBER_ROWS = 100_000
"""From design.md, section 4: a best effort of one node that bounds its own memory, to some 5 MB."""

KEEP_ROWS = REMEMBER_ROWS * 7 // 8
"""What stays when there are more: all are sorted then, so not for each chunk that comes."""

_OVER = float("-inf")


@dataclass(frozen=True)
class _Run:
    """IDs in the order of their hashes, each one once, with the time when it is forgotten; `last`, when all are.

    `beside`: what was remembered with each.
    """

    hashes: Hashes
    ids: pa.Array
    beside: pa.Array | None
    until: np.ndarray
    last: float

    def __len__(self) -> int:
        """IDs."""
        return len(self.hashes)

    def find(self, hashes: Hashes, ids: pa.Array, now: float) -> tuple[Rows, Rows]:
        """Rows of `ids` that are here, and where; a string is compared for each suspicion only."""
        at = np.searchsorted(self.hashes, hashes, side="right") - 1
        asked = np.flatnonzero((self.hashes[at] == hashes) & (self.until[at] > now))
        if not len(asked):
            return asked, asked
        places = at[asked]
        same = pc.equal(ids.take(pa.array(asked)), self.ids.take(pa.array(places))).to_numpy(zero_copy_only=False)
        return asked[same], places[same]


class RememberedIds:
    """A bounded, expiring set of message IDs, or of other short texts.

    `remember_s`: for how long; 0 for not at all. `most_rows`: how many at once, `REMEMBER_ROWS` by default.

    Sorted runs of which each is at most half as long as the one before it: an ID is sorted in a few times, and looked
    for in a few places.
    """

    def __init__(self, remember_s: float, most_rows: int | None = None) -> None:
        self.remember_s = remember_s
        self._most_rows = most_rows
        self._runs: list[_Run] = []

    def __len__(self) -> int:
        """IDs. One that was remembered several times may count as often."""
        return sum(len(run) for run in self._runs)

    def remember(self, message_ids: pa.Array, now: float, *, beside: pa.Array | None = None) -> None:
        """Add IDs (a string array), with another value `beside` each one, always or never; the oldest make room."""
        most = REMEMBER_ROWS if self._most_rows is None else self._most_rows
        first = max(len(message_ids) - most, 0)
        ids = message_ids[first:]
        if not self.remember_s or not len(ids):
            return
        hashes = hashes_of(ids)
        texts = None if beside is None else beside[first:]
        self._runs.append(_sorted(hashes, ids, texts, np.full(len(ids), now + self.remember_s)))
        while len(self._runs) > 1 and (len(self._runs[-2]) < 2 * len(self._runs[-1]) or len(self) > most):
            self._merge(now)

    def forget(self, message_ids: pa.Array) -> None:
        """These are not remembered any more."""
        hashes = hashes_of(message_ids)
        for run in self._runs:
            _, places = run.find(hashes, message_ids, _OVER)
            run.until[places] = _OVER

    def known(
        self, message_ids: pa.Array, now: float, *, beside: pa.Array | None = None, same: bool = False
    ) -> np.ndarray | None:
        """Which of these are remembered (bool, row by row); None when none is, which costs nothing if none can be.

        With `beside`: those beside which another value is remembered than the one given here, or with `same` no other.
        """
        self._runs = [run for run in self._runs if run.last > now]
        if not self._runs:
            return None
        hashes = hashes_of(message_ids)
        found = np.zeros(len(message_ids), bool)
        for run in self._runs:
            asked, places = run.find(hashes, message_ids, now)
            if beside is not None and run.beside is not None and len(asked):
                equal = pc.equal(beside.take(pa.array(asked)), run.beside.take(pa.array(places))).fill_null(same)
                asked = asked[equal.to_numpy(zero_copy_only=False) == same]
            found[asked] = True
        return found if found.any() else None

    def _merge(self, now: float) -> None:
        """The last two runs become one, without what is over; the newest stay if there is no room for all."""
        older, newer = self._runs[-2:]
        hashes = np.concatenate((older.hashes, newer.hashes))
        until = np.concatenate((older.until, newer.until))
        keep = np.flatnonzero(until > now)
        most, stay = (
            (REMEMBER_ROWS, KEEP_ROWS) if self._most_rows is None else (self._most_rows, self._most_rows * 7 // 8)
        )
        if len(keep) > most:
            keep = np.sort(keep[np.argsort(until[keep], kind="stable")[-stay:]])
        ids = pa.concat_arrays([older.ids, newer.ids]).take(pa.array(keep))
        beside = None
        if older.beside is not None and newer.beside is not None:
            beside = pa.concat_arrays([older.beside, newer.beside]).take(pa.array(keep))
        self._runs[-2:] = [_sorted(hashes[keep], ids, beside, until[keep])] if len(keep) else []


def _sorted(hashes: Hashes, ids: pa.Array, beside: pa.Array | None, until: np.ndarray) -> _Run:
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    newest = np.append(hashes[1:] != hashes[:-1], True)
    order = order[newest]
    # `take` copies: a slice would keep the whole chunk's buffer alive.
    at = pa.array(order)
    beside = None if beside is None else beside.take(at)
    return _Run(hashes[newest], ids.take(at), beside, until[order], float(until.max()))
