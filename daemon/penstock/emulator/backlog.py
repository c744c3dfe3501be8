"""A subscription's messages and the moves between their states; who may have them is decided here, why is not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.emulator.ack_ids import Deliveries
from penstock.emulator.ledger import Entries, Ledger, State
from penstock.emulator.ordering import KeyGate
from penstock.emulator.segment import Segment
from penstock.emulator.shelf import Shelf
from penstock.emulator.stream import PullStream

# A response of about 1 MiB is decoded well by clients; the service's own are of the same order.
RESPONSE_BYTES = 1 << 20

# On exactly-once subscriptions a repeated ack must be told apart from a late one for a while.
EXACTLY_ONCE_MEMORY_ROWS = 1 << 20

_NOTHING: Entries = np.empty(0, np.int64)

Freed = Callable[[NDArray[np.int64], NDArray[np.int64]], None]
"""Told the holders (stream numbers) of messages that are out no more, and their sizes in bytes."""


class Backlog:
    """Ledger, shelf and key gate, kept in step. `Entries` ascend and name each entry once, unless said otherwise.

    `next_due`: nothing is due before, in seconds of the emulator's clock.
    """

    def __init__(self, *, ordering: bool, freed: Freed) -> None:
        self.ledger = Ledger()
        self.shelf = Shelf()
        self.next_due = float("inf")
        self._gate = KeyGate() if ordering else None
        self._freed = freed

    def add(self, segment: Segment, rows: NDArray[np.int64]) -> None:
        """Some messages of a segment, WAITING."""
        keys = segment.keys[rows] if segment.keys is not None and self._gate is not None else None
        number, first_row = self.shelf.add(segment, len(rows), self.ledger.end)
        self.ledger.append(number, rows + first_row, segment.sizes_bytes[rows], keys, segment.publish_us)

    # --- out --------------------------------------------------------------------------------------------------------

    def pick(self, stream: PullStream, most_rows: int, now: float) -> Entries:
        """Entries to deliver next to a stream; moves `wait_from` past what is neither waiting nor held back."""
        ledger, gate = self.ledger, self._gate
        start, first_blocked = ledger.wait_from, None
        while True:
            found, start = ledger.waiting(start)
            if not len(found):
                ledger.wait_from = ledger.end if first_blocked is None else first_blocked
                return found
            if gate is not None:
                passing = gate.passes(ledger.key[ledger.at(found)], stream.number, now)
                if first_blocked is None and not passing.all():
                    first_blocked = int(found[np.argmin(passing)])
                found = found[passing]
            if len(found):
                break
        found = found[:most_rows]
        sizes = np.cumsum(ledger.size_bytes[ledger.at(found)])
        fits = int(np.searchsorted(sizes, min(stream.room_bytes, RESPONSE_BYTES), "right"))
        if fits == 0 and (sizes[0] <= stream.room_bytes or stream.outstanding_rows == 0):
            fits = 1  # one message larger than a response or than the stream's whole limit must still get through
        if fits and sizes[fits - 1] > RESPONSE_BYTES // 4:
            fits = self._without_a_rest(found[:fits])
        following = int(found[fits]) if fits < len(found) else int(found[-1]) + 1
        ledger.wait_from = following if first_blocked is None else min(first_blocked, following)
        return found[:fits]

    def give(self, entries: Entries, stream: PullStream, now: float) -> NDArray[np.int32]:
        """WAITING → OUT; says how often each has been delivered by now."""
        ledger = self.ledger
        at = ledger.at(entries)
        ledger.state[at] = State.OUT
        ledger.attempt[at] += 1
        ledger.holder[at] = stream.number
        ledger.due[at] = now + stream.ack_deadline_s
        self.next_due = min(self.next_due, now + stream.ack_deadline_s)
        stream.outstanding_rows += len(entries)
        stream.outstanding_bytes += int(ledger.size_bytes[at].sum())
        if self._gate is not None:
            self._gate.give(ledger.key[at], stream.number)
        return ledger.attempt[at]

    def messages(self, entries: Entries) -> pa.StructArray:
        """What the entries are about."""
        at = self.ledger.at(entries)
        return self.shelf.messages(self.ledger.segment[at], self.ledger.row[at].astype(np.int64))

    # --- what a delivery is worth -----------------------------------------------------------------------------------

    def is_current(self, deliveries: Deliveries, now: float) -> NDArray[np.bool_]:
        """Whether each (in any order) is the newest of its entry, and out, and not due."""
        ledger = self.ledger
        known, at = self._known(deliveries)
        current: NDArray[np.bool_] = known & (ledger.state[at] == State.OUT) & (ledger.due[at] > now)
        current &= ledger.attempt[at] == deliveries.attempts
        return current

    def was_acked(self, deliveries: Deliveries) -> NDArray[np.bool_]:
        """Whether each (in any order) is the one that was acknowledged, as far as is remembered."""
        known, at = self._known(deliveries)
        acked: NDArray[np.bool_] = self.ledger.state[at] == State.ACKED
        acked &= self.ledger.attempt[at] == deliveries.attempts
        return acked | ~known

    def unacked(self, entries: Entries) -> Entries:
        """Those of some entries (in any order, repeated or not) that are not ACKED."""
        if (entries[1:] <= entries[:-1]).any():
            entries = np.unique(entries).astype(np.int64)
        entries = entries[entries >= self.ledger.base]
        unacked: NDArray[np.bool_] = self.ledger.state[self.ledger.at(entries)] != State.ACKED
        return entries[unacked]

    # --- moves ------------------------------------------------------------------------------------------------------

    def extend(self, entries: Entries, dues: NDArray[np.float64]) -> None:
        """OUT for longer, or for shorter; entries in any order."""
        if len(entries):
            self.ledger.due[self.ledger.at(entries)] = dues
            self.next_due = min(self.next_due, float(dues.min()))

    def finish(self, entries: Entries, *, keep: bool) -> None:
        """Any → ACKED. `keep`: their messages may be asked for again."""
        at = self.ledger.at(entries)
        self._leave(at)
        self.ledger.state[at] = State.ACKED
        self.shelf.count(self.ledger.segment[at], -1, drop=self._gate is None and not keep)
        self.ledger.advance()

    def wait(self, entries: Entries) -> None:
        """OUT or DELAYED → WAITING."""
        at = self.ledger.at(entries)
        self._leave(at)
        self.ledger.state[at] = State.WAITING
        self._look_again_from(entries)

    def delay(self, entries: Entries, dues: NDArray[np.float64]) -> None:
        """OUT → DELAYED; the later messages of their keys are held back as long."""
        at = self.ledger.at(entries)
        if self._gate is not None:
            self._gate.hold(self.ledger.key[at], dues)
        self._leave(at)
        self.ledger.state[at] = State.DELAYED
        self.ledger.due[at] = dues
        self.next_due = min(self.next_due, float(dues.min(initial=np.inf)))

    def reopen(self, entries: Entries) -> None:
        """ACKED → WAITING; their segments are all on the shelf."""
        at = self.ledger.at(entries)
        self.ledger.state[at] = State.WAITING
        self.shelf.count(self.ledger.segment[at], +1, drop=False)
        self._look_again_from(entries)
        self.ledger.acked_through = min(self.ledger.acked_through, int(entries.min(initial=self.ledger.end)))

    def due(self, now: float) -> tuple[Entries, Entries]:
        """Entries that are OUT and expired, and those whose delay is over."""
        late, self.next_due = self.ledger.overdue(now)
        out = self.ledger.state[self.ledger.at(late)] == State.OUT
        return late[out], late[~out]

    def followers(self, entries: Entries) -> tuple[Entries, Entries]:
        """With ordering, the later entries of the same keys: those OUT (other than the given), and those ACKED."""
        ledger = self.ledger
        keys = ledger.key[ledger.at(entries)]
        unique, first = np.unique(keys[keys != 0], return_index=True)
        if not len(unique):
            return _NOTHING, _NOTHING
        oldest = entries[keys != 0][first]  # entries ascend, so the first of a key is its oldest
        live = ledger.live()
        place = np.minimum(np.searchsorted(unique, ledger.key[live]), len(unique) - 1)
        numbers = np.arange(ledger.acked_through, ledger.end)
        later = (unique[place] == ledger.key[live]) & (numbers > oldest[place])
        state = ledger.state[live]
        return np.setdiff1d(numbers[later & (state == State.OUT)], entries), numbers[later & (state == State.ACKED)]

    # --- by publish time --------------------------------------------------------------------------------------------

    def split(self, publish_us: int) -> tuple[Entries, Entries]:
        """Entries not ACKED published before a time, and ACKED ones since then that are still on the shelf."""
        ledger = self.ledger
        kept = slice(0, ledger.end - ledger.base)
        before = ledger.publish_us[kept] < publish_us
        acked = ledger.state[kept] == State.ACKED
        again = np.flatnonzero(~before & acked)
        again = again[self.shelf.has(ledger.segment[again])]
        return np.flatnonzero(before & ~acked) + ledger.base, again + ledger.base

    def first_since(self, publish_us: int) -> int:
        """The first entry published at a time or later (publish times ascend)."""
        ledger = self.ledger
        return ledger.base + int(np.searchsorted(ledger.publish_us[: ledger.end - ledger.base], publish_us))

    def forget(self, before: int, *, exactly_once: bool) -> None:
        """Drop segments and entries before an entry, as far as they are ACKED."""
        before = min(before, self.ledger.acked_through)
        self.shelf.drop_done(before)
        self.ledger.drop_before(min(before, self.ledger.end - EXACTLY_ONCE_MEMORY_ROWS) if exactly_once else before)

    # --- within -----------------------------------------------------------------------------------------------------

    def _known(self, deliveries: Deliveries) -> tuple[NDArray[np.bool_], Entries]:
        """Which entries are still in the ledger, and where (0 for others)."""
        known = (deliveries.entries >= self.ledger.base) & (deliveries.entries < self.ledger.end)
        return known, np.where(known, self.ledger.at(deliveries.entries), 0)

    def _leave(self, at: Entries) -> None:
        """Those that are out are so no more: their streams have room again, their keys are free."""
        at = at[self.ledger.state[at] == State.OUT]
        self._freed(self.ledger.holder[at], self.ledger.size_bytes[at])
        if self._gate is not None:
            self._gate.back(self.ledger.key[at])

    def _without_a_rest(self, found: Entries) -> int:
        """How many to take: rather fewer large rows of one segment, without a copy, than a few more from the next."""
        segments = self.ledger.segment[self.ledger.at(found)]
        of_first = int(np.searchsorted(segments, segments[0], "right"))
        return of_first if of_first > len(found) // 2 else len(found)

    def _look_again_from(self, entries: Entries) -> None:
        self.ledger.wait_from = min(self.ledger.wait_from, int(entries.min(initial=self.ledger.end)))
