"""A subscription: what it still has to deliver, to whom it gave what, and until when. Plain decisions, no I/O."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.emulator.ack_ids import AckIds, Deliveries
from penstock.emulator.config import Backoff, SubscriptionConfig
from penstock.emulator.ledger import Entries, Ledger, State
from penstock.emulator.ordering import KeyGate
from penstock.emulator.segment import Segment
from penstock.emulator.shelf import Shelf
from penstock.emulator.stream import PullStream

# A response of about 1 MiB is decoded well by clients; the service's own are of the same order.
RESPONSE_BYTES = 1 << 20
RESPONSE_ROWS = 2500

# On exactly-once subscriptions a repeated ack must be told apart from a late one for a while.
_EXACTLY_ONCE_MEMORY_ROWS = 1 << 20

DeadLetters = Callable[[pa.StructArray, NDArray[np.int64]], None]
"""Takes dead messages and how often each was delivered."""


@dataclasses.dataclass(slots=True)
class Counts:
    """What happened on a subscription so far, in messages unless the name says otherwise."""

    published: int = 0
    delivered: int = 0
    redelivered: int = 0
    acked: int = 0
    nacked: int = 0
    expired: int = 0
    extended: int = 0
    dead_lettered: int = 0
    filtered_out: int = 0
    invalid_ack_ids: int = 0
    streams_opened: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Delivery:
    """Messages on their way to one client; `attempts` are what the client is told (0: nothing)."""

    ack_ids: pa.Array
    messages: pa.StructArray
    attempts: NDArray[np.int32]


class Subscription:
    """Everything of one subscription. `now` is always seconds of the emulator's clock.

    The broker says when messages arrive, handlers take and acknowledge, a ticker calls `tick`.
    """

    def __init__(self, name: str, config: SubscriptionConfig, dead_letters: DeadLetters) -> None:
        self.name = name
        self.config = config
        self.ack_ids = AckIds(f"{name}#{secrets.token_hex(8)}")
        self.ledger = Ledger()
        self.counts = Counts()
        self.streams: dict[int, PullStream] = {}
        self.topic_retention_s = 0.0
        self._dead_letters = dead_letters
        self._gate = KeyGate() if config.ordering else None
        self._shelf = Shelf()
        self._next_due = float("inf")

    # --- in ---------------------------------------------------------------------------------------------------------

    def publish(self, segment: Segment) -> None:
        """Take over the messages of a segment that pass the filter."""
        rows = np.arange(len(segment.messages))
        if self.config.filter is not None:
            rows = rows[self.config.filter(segment.attributes)]
            self.counts.filtered_out += len(segment.messages) - len(rows)
        if not len(rows):
            return
        keys = segment.keys[rows] if segment.keys is not None and self._gate is not None else None
        number = self._shelf.add(segment, len(rows), self.ledger.end)
        self.ledger.append(number, rows, segment.sizes_bytes[rows], keys, segment.publish_us)
        self.counts.published += len(rows)
        self._wake()

    # --- out --------------------------------------------------------------------------------------------------------

    def attach(self, stream: PullStream) -> None:
        """A stream that messages can be given to from now on."""
        self.streams[stream.number] = stream
        self.counts.streams_opened += 1

    def detach(self, stream: PullStream) -> None:
        """A stream is gone; what it has stays out until its deadline, as on the service."""
        self.streams.pop(stream.number, None)
        self._wake()

    def take(self, stream: PullStream, now: float, most_rows: int = RESPONSE_ROWS) -> Delivery | None:
        """The next messages for a stream, within its limits; None when there are none."""
        most_rows = min(stream.room_rows, most_rows)
        if most_rows <= 0 or stream.room_bytes <= 0:
            return None
        picked = self._pick(stream, most_rows, now)
        if not len(picked):
            return None
        ledger = self.ledger
        at = ledger.at(picked)
        ledger.state[at] = State.OUT
        ledger.attempt[at] += 1
        ledger.holder[at] = stream.number
        ledger.due[at] = now + stream.ack_deadline_s
        self._next_due = min(self._next_due, now + stream.ack_deadline_s)
        stream.outstanding_rows += len(picked)
        stream.outstanding_bytes += int(ledger.size_bytes[at].sum())
        if self._gate is not None:
            self._gate.give(ledger.key[at], stream.number)
        attempts = ledger.attempt[at]
        self.counts.delivered += len(picked)
        self.counts.redelivered += int(np.count_nonzero(attempts > 1))
        return Delivery(
            ack_ids=self.ack_ids.column(Deliveries(picked, attempts.astype(np.int64))),
            messages=self._messages(at),
            attempts=attempts if self.config.dead_letter else np.zeros(len(picked), np.int32),
        )

    # --- what clients say -------------------------------------------------------------------------------------------

    def acknowledge(self, deliveries: Deliveries, now: float) -> NDArray[np.bool_]:
        """Acknowledge; says of each whether it was (or had been, by the same delivery) acknowledged.

        Only an exactly-once subscription refuses: what has expired or was delivered again since.
        """
        fine = np.ones(len(deliveries.entries), bool)
        if self.config.exactly_once:
            fine = self._is_current(deliveries, now) | self._was_acked(deliveries)
        self.counts.invalid_ack_ids += int(np.count_nonzero(~fine))
        entries = np.unique(deliveries.entries[fine])
        entries = entries[entries >= self.ledger.base]
        at = self.ledger.at(entries)
        entries = entries[self.ledger.state[at] != State.ACKED]
        self.counts.acked += len(entries)
        self._finish(entries)
        return fine

    def modify(self, deliveries: Deliveries, deadlines_s: NDArray[np.int64], now: float) -> NDArray[np.bool_]:
        """Move deadlines; 0 gives a message back. Says of each whether its delivery was current."""
        current = self._is_current(deliveries, now)
        self.counts.invalid_ack_ids += int(np.count_nonzero(~current)) if self.config.exactly_once else 0
        entries, deadlines_s = deliveries.entries[current], deadlines_s[current]
        later = deadlines_s > 0
        at = self.ledger.at(entries[later])
        self.ledger.due[at] = now + deadlines_s[later]
        self.counts.extended += len(at)
        if len(at):
            self._next_due = min(self._next_due, now + float(deadlines_s[later].min()))
        nacked = np.unique(entries[~later])
        self.counts.nacked += len(nacked)
        self._give_back(nacked, now)
        return current

    # --- time -------------------------------------------------------------------------------------------------------

    def tick(self, now: float, wall_us: int) -> None:
        """Give back what has expired, let delayed messages go, forget what is past its retention."""
        if now >= self._next_due:
            late, self._next_due = self.ledger.overdue(now)
            state = self.ledger.state[self.ledger.at(late)]
            delayed, expired = late[state == State.DELAYED], late[state == State.OUT]
            self._make_waiting(delayed)
            self.counts.expired += len(expired)
            self._give_back(expired, now)
        self._release(wall_us)

    def seek(self, publish_us: int, wall_us: int) -> None:
        """Acknowledge all published before, and take back all published since that are still kept."""
        ledger = self.ledger
        kept = slice(0, ledger.end - ledger.base)
        before = ledger.publish_us[kept] < publish_us
        acked = ledger.state[kept] == State.ACKED
        self._finish(np.flatnonzero(before & ~acked) + ledger.base)
        if self._retention_s:
            again = np.flatnonzero(~before & acked)
            self._reopen(again[self._shelf.has(ledger.segment[again])] + ledger.base)
        self._release(wall_us)
        self._wake()

    def redeliver(self, most_rows: int, now: float) -> int:
        """Let up to so many messages that are out expire now (a fault for tests); says how many did."""
        out = self.ledger.in_state(State.OUT)[:most_rows]
        self._give_back(out, now)
        return len(out)

    def drop_all(self) -> None:
        """Forget every message: the subscription was detached."""
        self._finish(np.flatnonzero(self.ledger.state[self.ledger.live()] != State.ACKED) + self.ledger.acked_through)
        self._shelf.clear()

    def statistics(self) -> dict[str, int]:
        """Counts so far, and what there is now."""
        state = self.ledger.state[self.ledger.live()]
        return {
            **dataclasses.asdict(self.counts),
            "remaining": int(np.count_nonzero(state != State.ACKED)),
            "outstanding": int(np.count_nonzero(state == State.OUT)),
            "waiting": int(np.count_nonzero(state == State.WAITING)),
            "delayed": int(np.count_nonzero(state == State.DELAYED)),
            "segments": len(self._shelf),
            "streams": len(self.streams),
        }

    # --- within -----------------------------------------------------------------------------------------------------

    def _pick(self, stream: PullStream, most_rows: int, now: float) -> Entries:
        """Entries to deliver next, in order; moves `wait_from` past what is neither waiting nor held back."""
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
        following = int(found[fits]) if fits < len(found) else int(found[-1]) + 1
        ledger.wait_from = following if first_blocked is None else min(first_blocked, following)
        return found[:fits]

    def _messages(self, at: Entries) -> pa.StructArray:
        return self._shelf.messages(self.ledger.segment[at], self.ledger.row[at].astype(np.int64))

    def _known(self, deliveries: Deliveries) -> tuple[NDArray[np.bool_], Entries]:
        """Which entries are still in the ledger, and where (0 for others)."""
        known = (deliveries.entries >= self.ledger.base) & (deliveries.entries < self.ledger.end)
        return known, np.where(known, self.ledger.at(deliveries.entries), 0)

    def _is_current(self, deliveries: Deliveries, now: float) -> NDArray[np.bool_]:
        known, at = self._known(deliveries)
        ledger = self.ledger
        current: NDArray[np.bool_] = (
            known & (ledger.state[at] == State.OUT) & (ledger.attempt[at] == deliveries.attempts)
        )
        current &= ledger.due[at] > now
        return current

    def _was_acked(self, deliveries: Deliveries) -> NDArray[np.bool_]:
        known, at = self._known(deliveries)
        acked: NDArray[np.bool_] = (self.ledger.state[at] == State.ACKED) & (
            self.ledger.attempt[at] == deliveries.attempts
        )
        return acked | ~known

    def _finish(self, entries: Entries) -> None:
        """Entries that are not ACKED become so."""
        if not len(entries):
            return
        at = self.ledger.at(entries)
        self._leave(at)
        self.ledger.state[at] = State.ACKED
        self._count_open(at, -1)
        self.ledger.advance()
        self._wake()

    def _leave(self, at: Entries) -> None:
        """Those that are out are so no more: their streams have room again, their keys are free."""
        at = at[self.ledger.state[at] == State.OUT]
        holders, sizes = self.ledger.holder[at], self.ledger.size_bytes[at]
        for number in np.unique(holders).tolist():
            if (stream := self.streams.get(number)) is not None:
                mine = holders == number
                stream.outstanding_rows -= int(np.count_nonzero(mine))
                stream.outstanding_bytes -= int(sizes[mine].sum())
        if self._gate is not None:
            self._gate.back(self.ledger.key[at])

    def _give_back(self, entries: Entries, now: float) -> None:
        """Entries that are OUT go to the dead letters, or wait again (at once, or after the policy's backoff)."""
        if not len(entries):
            return
        ledger = self.ledger
        at = ledger.at(entries)
        if self.config.dead_letter is not None:
            dead = ledger.attempt[at] >= self.config.dead_letter.max_attempts
            self._bury(entries[dead])
            entries, at = entries[~dead], at[~dead]
        if not len(entries):
            return
        followers = self._followers(entries)
        if self.config.backoff is None:
            self._make_waiting(entries)
        else:
            self._delay(entries, self.config.backoff, now)
        self._make_waiting(followers)

    def _delay(self, entries: Entries, backoff: Backoff, now: float) -> None:
        """They wait for longer the more often they were delivered; their keys wait with them."""
        ledger = self.ledger
        at = ledger.at(entries)
        exponent = np.minimum(ledger.attempt[at] - 1, 40)
        due = now + np.minimum(backoff.minimum_s * 2.0**exponent, backoff.maximum_s)
        if self._gate is not None:
            self._gate.hold(ledger.key[at], due)
        self._leave(at)
        ledger.state[at] = State.DELAYED
        ledger.due[at] = due
        self._next_due = min(self._next_due, float(due.min()))
        self._wake()

    def _followers(self, entries: Entries) -> Entries:
        """With each message that is given back go the later ones of its key that are out, as on the service.

        So do those that are acknowledged already, which wait again from here on; but on exactly-once subscriptions an
        acknowledged message never comes back.
        """
        ledger = self.ledger
        keys = ledger.key[ledger.at(entries)]
        unique, first = np.unique(keys[keys != 0], return_index=True)
        if not len(unique):
            return np.empty(0, np.int64)
        oldest = entries[keys != 0][first]  # entries ascend, so the first of a key is its oldest
        live = ledger.live()
        place = np.minimum(np.searchsorted(unique, ledger.key[live]), len(unique) - 1)
        numbers = np.arange(ledger.acked_through, ledger.end)
        later = (unique[place] == ledger.key[live]) & (numbers > oldest[place])
        state = ledger.state[live].copy()
        if not self.config.exactly_once:
            self._reopen(numbers[later & (state == State.ACKED)])
        return np.setdiff1d(numbers[later & (state == State.OUT)], entries)

    def _make_waiting(self, entries: Entries) -> None:
        """OUT or DELAYED entries wait to be delivered."""
        if not len(entries):
            return
        at = self.ledger.at(entries)
        self._leave(at)
        self.ledger.state[at] = State.WAITING
        self.ledger.wait_from = min(self.ledger.wait_from, int(entries.min()))
        self._wake()

    def _reopen(self, entries: Entries) -> None:
        """ACKED entries, whose segments are all held, wait to be delivered again."""
        if not len(entries):
            return
        at = self.ledger.at(entries)
        self.ledger.state[at] = State.WAITING
        self._count_open(at, +1)
        self.counts.acked -= len(entries)
        self.ledger.acked_through = min(self.ledger.acked_through, int(entries.min()))
        self.ledger.wait_from = min(self.ledger.wait_from, int(entries.min()))

    def _bury(self, entries: Entries) -> None:
        """Hand messages over to the dead-letter topic, which acknowledges them here."""
        if not len(entries):
            return
        at = self.ledger.at(entries)
        self._dead_letters(self._messages(at), self.ledger.attempt[at].astype(np.int64))
        self.counts.dead_lettered += len(entries)
        self._finish(entries)

    def _count_open(self, at: Entries, sign: int) -> None:
        drop = self._gate is None and not self._retention_s
        self._shelf.count(self.ledger.segment[at], sign, drop=drop)

    @property
    def _retention_s(self) -> float:
        """For how long acknowledged messages are kept for a seek."""
        return max(self.config.retention_s if self.config.retain_acked else 0.0, self.topic_retention_s)

    def _release(self, wall_us: int) -> None:
        """Drop segments and entries that nothing can ask for any more."""
        ledger = self.ledger
        published = ledger.publish_us[: ledger.end - ledger.base]
        too_old = ledger.base + int(np.searchsorted(published, wall_us - int(self.config.retention_s * 1e6)))
        if too_old > ledger.acked_through:
            old = np.arange(ledger.acked_through, too_old)
            self._finish(old[ledger.state[ledger.at(old)] != State.ACKED])
        done = ledger.acked_through
        if self._retention_s:
            kept_from = ledger.base + int(np.searchsorted(published, wall_us - int(self._retention_s * 1e6)))
            done = min(done, kept_from)
        self._shelf.drop_done(done)
        ledger.drop_before(min(done, ledger.end - _EXACTLY_ONCE_MEMORY_ROWS) if self.config.exactly_once else done)

    def _wake(self) -> None:
        """Let every stream look; the one that looked first goes last next time."""
        for stream in self.streams.values():
            stream.wake.set()
        if len(self.streams) > 1:
            number = next(iter(self.streams))
            self.streams[number] = self.streams.pop(number)
