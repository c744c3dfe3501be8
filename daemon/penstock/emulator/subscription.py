"""A subscription: what it still has to deliver, to whom it gave what, and until when. Plain decisions, no I/O."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.emulator.ack_ids import AckIds, Deliveries
from penstock.emulator.backlog import Backlog
from penstock.emulator.config import Backoff, SubscriptionConfig
from penstock.emulator.ledger import Entries, State
from penstock.emulator.segment import Segment
from penstock.emulator.stream import PullStream

# Bounds what a response of tiny messages costs to make; the acks of one fit in one request.
RESPONSE_ROWS = 2500

DeadLetters = Callable[[pa.StructArray, NDArray[np.int64]], bool]
"""Takes dead messages and how often each was delivered; False: there is nowhere to put them."""


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
        self.backlog = Backlog(ordering=config.ordering, freed=self._freed)
        self.counts = Counts()
        self.streams: dict[int, PullStream] = {}
        self.topic_retention_s = 0.0
        self._dead_letters = dead_letters

    def __repr__(self) -> str:
        return f"<Subscription {self.name} {self.statistics()}>"

    def publish(self, segment: Segment) -> None:
        """Take over the messages of a segment that pass the filter."""
        rows = np.arange(len(segment.messages))
        if self.config.filter is not None:
            rows = rows[self.config.filter(segment.attributes)]
            self.counts.filtered_out += len(segment.messages) - len(rows)
        if len(rows):
            self.backlog.add(segment, rows)
            self.counts.published += len(rows)
            self._wake()

    # --- streams ----------------------------------------------------------------------------------------------------

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
        self._expire(now)  # before the next tick, so that a message never overtakes one of its key that is due as well
        picked = self.backlog.pick(stream, most_rows, now)
        if not len(picked):
            return None
        attempts = self.backlog.give(picked, stream, now)
        self.counts.delivered += len(picked)
        self.counts.redelivered += int(np.count_nonzero(attempts > 1))
        return Delivery(
            ack_ids=self.ack_ids.column(Deliveries(picked, attempts.astype(np.int64))),
            messages=self.backlog.messages(picked),
            attempts=attempts if self.config.dead_letter else np.zeros(len(picked), np.int32),
        )

    # --- what clients say -------------------------------------------------------------------------------------------

    def acknowledge(self, deliveries: Deliveries, now: float) -> NDArray[np.bool_]:
        """Acknowledge; says of each whether it was (or had been, by the same delivery) acknowledged.

        Only an exactly-once subscription refuses: what has expired or was delivered again since.
        """
        fine = np.ones(len(deliveries.entries), bool)
        if self.config.exactly_once:
            fine = self.backlog.is_current(deliveries, now) | self.backlog.was_acked(deliveries)
        self.counts.invalid_ack_ids += int(np.count_nonzero(~fine))
        entries = self.backlog.unacked(deliveries.entries[fine])
        self.counts.acked += len(entries)
        self._finish(entries)
        return fine

    def modify(self, deliveries: Deliveries, deadlines_s: NDArray[np.int64], now: float) -> NDArray[np.bool_]:
        """Move deadlines; 0 gives a message back. Says of each whether its delivery was current."""
        current = self.backlog.is_current(deliveries, now)
        self.counts.invalid_ack_ids += int(np.count_nonzero(~current)) if self.config.exactly_once else 0
        entries, deadlines_s = deliveries.entries[current], deadlines_s[current]
        later = deadlines_s > 0
        self.backlog.extend(entries[later], np.float64(now) + deadlines_s[later].astype(np.float64))
        self.counts.extended += int(np.count_nonzero(later))
        nacked = np.unique(entries[~later])
        self.counts.nacked += len(nacked)
        self._give_back(nacked, now)
        return current

    def seek(self, publish_us: int, wall_us: int) -> None:
        """Acknowledge all published before, and take back all published since that are still kept."""
        purged, again = self.backlog.split(publish_us)
        self._finish(purged)
        if self._retention_s:
            self._reopen(again[again >= self.backlog.first_since(wall_us - int(self._retention_s * 1e6))])
        self._forget(wall_us)
        self._wake()

    # --- time, tests, figures ---------------------------------------------------------------------------------------

    def tick(self, now: float, wall_us: int) -> None:
        """Give back what has expired, let delayed messages go, forget what is past its retention."""
        self._expire(now)
        self._forget(wall_us)

    def redeliver(self, most_rows: int, now: float) -> int:
        """Let up to so many messages that are out expire now (a fault for tests); says how many did."""
        out = self.backlog.ledger.in_state(State.OUT)[:most_rows]
        self._give_back(out, now)
        return len(out)

    def drop_all(self) -> None:
        """Forget every message: the subscription was detached."""
        ledger = self.backlog.ledger
        self._finish(self.backlog.unacked(np.arange(ledger.acked_through, ledger.end)))
        self.backlog.shelf.clear()

    def statistics(self) -> dict[str, int]:
        """Counts so far, and what there is now."""
        ledger = self.backlog.ledger
        in_state = np.bincount(ledger.state[ledger.live()], minlength=len(State))
        return {
            **dataclasses.asdict(self.counts),
            "remaining": int(in_state.sum() - in_state[State.ACKED]),
            "outstanding": int(in_state[State.OUT]),
            "waiting": int(in_state[State.WAITING]),
            "delayed": int(in_state[State.DELAYED]),
            "segments": len(self.backlog.shelf),
            "streams": len(self.streams),
        }

    # --- within -----------------------------------------------------------------------------------------------------

    def _expire(self, now: float) -> None:
        if now < self.backlog.next_due:
            return
        expired, delayed = self.backlog.due(now)
        self.counts.expired += len(expired)
        self.backlog.wait(delayed)
        self._give_back(expired, now)
        self._wake()

    def _give_back(self, entries: Entries, now: float) -> None:
        """Entries that are OUT go to the dead letters, or wait again (at once, or after the policy's backoff).

        With each message of a key go the later ones of that key, as on the service: those that are out, and those that
        are acknowledged already, unless the subscription is exactly-once.
        """
        entries = self._without_dead(entries)
        if not len(entries):
            return
        out, acked = self.backlog.followers(entries)
        if self.config.backoff is None:
            self.backlog.wait(entries)
        else:
            self.backlog.delay(entries, self._dues(entries, self.config.backoff, now))
        self.backlog.wait(out)
        if not self.config.exactly_once:
            self._reopen(acked)
        self._wake()

    def _without_dead(self, entries: Entries) -> Entries:
        """Hand over to the dead-letter topic what was delivered too often; the rest."""
        if self.config.dead_letter is None or not len(entries):
            return entries
        attempts = self.backlog.ledger.attempt[self.backlog.ledger.at(entries)].astype(np.int64)
        dead = attempts >= self.config.dead_letter.max_attempts
        if not dead.any() or not self._dead_letters(self.backlog.messages(entries[dead]), attempts[dead]):
            return entries
        self.counts.dead_lettered += int(np.count_nonzero(dead))
        self._finish(entries[dead])
        return entries[~dead]

    def _dues(self, entries: Entries, backoff: Backoff, now: float) -> NDArray[np.float64]:
        """Each waits for longer the more often it was delivered."""
        ledger = self.backlog.ledger
        exponent = np.minimum(ledger.attempt[ledger.at(entries)] - 1, 40)
        return np.asarray(now + np.minimum(backoff.minimum_s * 2.0**exponent, backoff.maximum_s))

    def _finish(self, entries: Entries) -> None:
        self.backlog.finish(entries, keep=bool(self._retention_s))
        self._wake()

    def _reopen(self, entries: Entries) -> None:
        self.backlog.reopen(entries)
        self.counts.acked -= len(entries)

    @property
    def _retention_s(self) -> float:
        """For how long acknowledged messages are kept for a seek."""
        return max(self.config.retention_s if self.config.retain_acked else 0.0, self.topic_retention_s)

    def _forget(self, wall_us: int) -> None:
        """Drop what is past its retention, and then all that nothing can ask for any more."""
        backlog = self.backlog
        too_old = backlog.first_since(wall_us - int(self.config.retention_s * 1e6))
        if too_old > backlog.ledger.acked_through:
            self._finish(backlog.unacked(np.arange(backlog.ledger.acked_through, too_old)))
        kept_from = backlog.ledger.acked_through
        if self._retention_s:
            kept_from = min(kept_from, backlog.first_since(wall_us - int(self._retention_s * 1e6)))
        backlog.forget(kept_from, exactly_once=self.config.exactly_once)

    def _freed(self, holders: NDArray[np.int64], sizes_bytes: NDArray[np.int64]) -> None:
        """Streams have room again for what they hold no more."""
        one_holder = len(holders) > 0 and bool((holders == holders[0]).all())
        for number in holders[:1].tolist() if one_holder else np.unique(holders).tolist():
            if (stream := self.streams.get(number)) is not None:
                mine = holders == number
                stream.outstanding_rows -= int(np.count_nonzero(mine))
                stream.outstanding_bytes -= int(sizes_bytes[mine].sum())

    def _wake(self) -> None:
        """Let every stream look; the one that looked first goes last next time."""
        for stream in self.streams.values():
            stream.wake.set()
        if len(self.streams) > 1:
            number = next(iter(self.streams))
            self.streams[number] = self.streams.pop(number)
