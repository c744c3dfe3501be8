"""What a subscription knows of each of its entries: numpy columns that grow at one end and are cut at the other."""

from __future__ import annotations

import enum

import numpy as np
from numpy.typing import NDArray

# Entries looked at in one step when the next ones to deliver are searched; a step costs some microseconds.
_SCAN_ROWS = 8192
# Finished entries that may lie at the front before the columns are moved.
_COMPACT_ROWS = 65_536

Entries = NDArray[np.int64]


class State(enum.IntEnum):
    """Of an entry. WAITING → OUT → WAITING (expired, nacked) | DELAYED (nacked, with a retry policy) | ACKED."""

    WAITING = 0
    OUT = 1
    DELAYED = 2
    ACKED = 3


class Ledger:
    """Entries are numbered from 0 in publish order for the subscription's whole life; `base` is the first one kept.

    Columns are read as `column[self.at(entries)]`. `due` is a deadline for OUT and DELAYED entries, in seconds of the
    emulator's clock; `attempt` counts deliveries; `holder` is the pull stream that has (or had) it; `segment` and `row`
    say where the message is; `key` is its hashed ordering key.
    """

    _COLUMNS = (
        ("state", np.uint8),
        ("attempt", np.int32),
        ("holder", np.int64),
        ("due", np.float64),
        ("size_bytes", np.int64),
        ("segment", np.int64),
        ("row", np.int32),
        ("publish_us", np.int64),
        ("key", np.uint64),
    )

    def __init__(self) -> None:
        self.base = 0
        self.end = 0
        self.wait_from = 0
        """No entry before this one is WAITING."""
        self.acked_through = 0
        """All entries before this one are ACKED."""
        self.state: NDArray[np.uint8]
        self.attempt: NDArray[np.int32]
        self.holder: NDArray[np.int64]
        self.due: NDArray[np.float64]
        self.size_bytes: NDArray[np.int64]
        self.segment: NDArray[np.int64]
        self.row: NDArray[np.int32]
        self.publish_us: NDArray[np.int64]
        self.key: NDArray[np.uint64]
        for name, kind in self._COLUMNS:
            setattr(self, name, np.zeros(4096, kind))

    def __repr__(self) -> str:
        return f"<Ledger {self.base}..{self.end}, acked through {self.acked_through}, waiting from {self.wait_from}>"

    def at(self, entries: Entries) -> Entries:
        """Where in the columns the entries are."""
        return entries - self.base

    def live(self) -> slice:
        """The part of the columns that can hold anything but ACKED."""
        return slice(self.acked_through - self.base, self.end - self.base)

    def append(
        self,
        segment: int,
        rows: NDArray[np.int64],
        sizes_bytes: NDArray[np.int64],
        keys: NDArray[np.uint64] | None,
        publish_us: int,
    ) -> None:
        """Add one entry per row, WAITING."""
        count = len(rows)
        start = self.end - self.base
        stop = start + count
        if stop > len(self.state):
            self._resize(max(2 * len(self.state), stop))
        self.state[start:stop] = State.WAITING
        self.attempt[start:stop] = 0
        self.holder[start:stop] = 0
        self.size_bytes[start:stop] = sizes_bytes
        self.segment[start:stop] = segment
        self.row[start:stop] = rows
        self.publish_us[start:stop] = publish_us
        self.key[start:stop] = 0 if keys is None else keys
        self.end += count

    def waiting(self, start: int) -> tuple[Entries, int]:
        """The WAITING entries of the next window that has any, from entry `start` on, and where that window ends."""
        start = max(start, self.acked_through)
        while start < self.end:
            stop = min(start + _SCAN_ROWS, self.end)
            found = np.flatnonzero(self.state[start - self.base : stop - self.base] == State.WAITING)
            if len(found):
                return found + start, stop
            start = stop
        return np.empty(0, np.int64), self.end

    def in_state(self, state: State) -> Entries:
        """All entries in a state other than ACKED; costs a scan of what is live."""
        return np.flatnonzero(self.state[self.live()] == state) + self.acked_through

    def overdue(self, now: float) -> tuple[Entries, float]:
        """Entries OUT or DELAYED whose time is up, and when the next will be due (infinity: none)."""
        live = self.live()
        state, due = self.state[live], self.due[live]
        timed = np.flatnonzero((state == State.OUT) | (state == State.DELAYED))
        late = due[timed] <= now
        later = due[timed[~late]]
        return timed[late] + self.acked_through, float(later.min()) if len(later) else float("inf")

    def advance(self) -> None:
        """Move `acked_through` over what is ACKED by now."""
        position = self.acked_through
        while position < self.end:
            stop = min(position + _SCAN_ROWS, self.end)
            open_ = self.state[position - self.base : stop - self.base] != State.ACKED
            if open_.any():
                position += int(np.argmax(open_))
                break
            position = stop
        self.acked_through = position
        self.wait_from = max(self.wait_from, position)

    def drop_before(self, entry: int) -> None:
        """Forget entries before `entry` (all ACKED), when there are enough to be worth moving the rest."""
        gone = min(entry, self.acked_through) - self.base
        kept = self.end - self.base - gone
        if gone < max(_COMPACT_ROWS, kept):
            return
        for name, _ in self._COLUMNS:
            column = getattr(self, name)
            column[:kept] = column[gone : gone + kept].copy()
        self.base += gone

    def _resize(self, rows: int) -> None:
        used = self.end - self.base
        for name, kind in self._COLUMNS:
            larger = np.zeros(rows, kind)
            larger[:used] = getattr(self, name)[:used]
            setattr(self, name, larger)
