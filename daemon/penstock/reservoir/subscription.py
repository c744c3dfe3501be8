"""One subscription on this node: its consumers, what they sealed, and when it may pull."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

import pyarrow as pa

from penstock.clock import Clock
from penstock.contract import Reader
from penstock.contract.actions import Accounting, Backlog, CommitState, FinishedEpoch, PlannedSlice, SealReply, Ticket
from penstock.errors import EpochPast, InternalError, InvalidRequest, SubscriptionFailed, SubscriptionShared
from penstock.reservoir.accounting import Ledger
from penstock.reservoir.batch import Batch, State
from penstock.reservoir.budget import Budget
from penstock.reservoir.consumer import Consumer, Tombstone
from penstock.reservoir.evicted import Past
from penstock.reservoir.holdings import Holdings
from penstock.reservoir.notes import Notes
from penstock.reservoir.ports import AckSink, BatchStore, DeadLetterSink
from penstock.reservoir.recovery import RecoveredBatch, RecoveredConsumer
from penstock.settings import ReservoirSettings

SEAL_FRACTION = 3
"""A seal takes at most this part (one third) of the share, so that the next batch fills while one is being read."""

RECENT_SEALS = 3
"""The queue may hold twice what the largest of these last batches took: the rest is somebody else's to pull."""

PAUSE_LOOK_S = 0.002
"""Pull streams ask for each response whether to go on; finding out costs as much as reading one. In this time a stream
brings a megabyte or two more."""

SATURATED = 0.8
"""Held bytes over the streams' flow control at which the service counts as stopped. It counts messages a little
differently than our buffers do, so the mark is below 1; too low only lets a minimum of rows be met early."""

UNLIMITED = 1 << 62

Failure: TypeAlias = SubscriptionFailed | InternalError
"""Why a subscription is not pulled any more, until the next `open`."""


class Subscription:
    """Satisfies `ports.ChunkSink`. Every method but the two `wait_` ones is a plain decision at the clock's time."""

    def __init__(  # noqa: PLR0913 - the composition root hands in what differs between nodes, tests and simulations
        self,
        name: str,
        *,
        node: str,
        settings: ReservoirSettings,
        budget: Budget,
        acks: AckSink,
        clock: Clock,
        ordered: bool,
        deadline_s: float,
        max_buffer_age_s: float,
        prefetch: bool = False,
        dead_letters: DeadLetterSink | None = None,
        max_delivery_attempts: int = 0,
        store: BatchStore | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.node = node
        self.prefetch = prefetch
        self.draining = False
        self.failed: Failure | None = None
        self.consumers: dict[str, Consumer] = {}
        self.streams_open_since: Callable[[], float | None] = lambda: None
        self.outstanding_limit: Callable[[], int] = lambda: 0
        self.exactly_once: Callable[[], bool] = lambda: False
        self.trouble: Callable[[], str | None] = lambda: None
        self._settings = settings
        self._budget = budget
        self._clock = clock
        self._max_buffer_age_s = max_buffer_age_s
        self._share = budget.share(settings.weight(name))
        self._wall = wall
        self._notes = Notes(name, store, clock, wall)
        self._holdings = Holdings(
            acks,
            self._share,
            self._notes,
            deadline_s=deadline_s,
            max_lease_s=settings.max_lease_s,
            ordered=ordered,
            dead_letters=dead_letters,
            max_delivery_attempts=max_delivery_attempts,
        )
        self._recent_seals: deque[int] = deque(maxlen=RECENT_SEALS)
        self._moved = asyncio.Event()
        self._paused = False
        self._look_again_at = float("-inf")

    # --- what comes in ------------------------------------------------------------------------------------------

    def receive(self, rows: pa.RecordBatch, ack_ids: pa.Array, now: float) -> None:
        """Take one decoded chunk."""
        first = not self._holdings.queue.rows
        self._holdings.receive(rows, ack_ids, now, receipt=self.exactly_once())
        if first:
            self._wake()

    def give_back_unread(self, ack_ids: Sequence[pa.Array]) -> None:
        """Messages that a pull stream brought too late to be taken."""
        self._holdings.give_back_unread(ack_ids)

    @property
    def paused(self) -> bool:
        """Whether pulling must stand still, as of `PAUSE_LOOK_S` ago; `pause_reason` says why."""
        now = self._clock()
        if now >= self._look_again_at:
            self._paused, self._look_again_at = self.pause_reason is not None, now + PAUSE_LOOK_S
        return self._paused

    @property
    def pause_reason(self) -> str | None:
        """`drain`, `disk`, `memory`, `age` or `queue`; None while messages are welcome."""
        if self.draining:
            return "drain"
        if self._notes.problem is not None:
            return "disk"
        if self._budget.paused(self._share):
            return "memory"
        oldest = self._holdings.queue.oldest_received_at()
        if oldest is not None and self._clock() - oldest > self._max_buffer_age_s:
            return "age"
        enough = max(self._seal_bytes, 2 * max(self._recent_seals, default=0))
        return "queue" if self._holdings.queue.bytes > enough else None

    async def wait_resumed(self) -> None:
        """Return when `paused` is False. Safe to cancel."""
        while self.pause_reason is not None:
            await self._moved.wait()
        self._look_again_at = float("-inf")

    async def wait_rows(self) -> None:
        """Return when an unsealed row is there, or none may come (failed, draining). Safe to cancel."""
        while not self._holdings.queue.rows and self.failed is None and not self.draining:
            await self._moved.wait()

    async def wait_wanted(self, *, wanted: bool) -> None:
        """Return when `self.wanted` is `wanted`. Safe to cancel."""
        while self.wanted is not wanted:
            await self._moved.wait()

    @property
    def wanted(self) -> bool:
        """Whether anybody wants messages: a consumer with contact, or `prefetch`."""
        if self.draining or self.failed is not None:
            return False
        return self.prefetch or any(consumer.contact and not consumer.said_bye for consumer in self.consumers.values())

    @property
    def share_bytes(self) -> int:
        """This subscription's part of the budget."""
        return self._budget.share_bytes(self._share)

    # --- readers ------------------------------------------------------------------------------------------------

    def open(self, consumer_id: str, reader: Reader, *, after: int, share: bool, past: Past | None = None) -> Consumer:
        """Let a reader take a consumer over, evicted or not. Raises `ReaderFenced`, `SubscriptionShared`."""
        now = self._clock()
        self.judge(now)
        consumer = self.consumers.get(consumer_id) or Consumer(consumer_id, self._settings.consumer_timeout_s)
        if past is not None:
            consumer.reader, consumer.committed_through = past.reader, past.committed_through
        consumer.fence(reader)
        self._displace_others(consumer_id, now, share=share)
        self.consumers[consumer_id] = consumer
        consumer.admit(reader, now, share=share)
        self._notes.consumer(consumer)
        # A call that was under way for long may know less than this node.
        after = max(after, consumer.committed_through)
        self.failed = None
        self._holdings.ask_again(now)
        self._share.active = True
        # Nobody was told of these: no offset can name an epoch beyond the next one. The latest first, so that the
        # earliest ends at the head of the queue.
        for epoch in sorted((epoch for epoch in consumer.batches if epoch > after + 1), reverse=True):
            if consumer.batches[epoch].state is State.SEALED:
                self._requeue(consumer, consumer.batches[epoch])
        self._wake()
        return consumer

    def alive(self, consumer: Consumer) -> None:
        """The heartbeat says nothing but hears of failures. Raises a `Failure`."""
        self._touch(consumer)
        self._check_failed()

    def bye(self, consumer: Consumer) -> None:
        """Contact is lost at once; nothing is released before another consumer comes or the time is up."""
        consumer.said_bye = True
        self._notes.consumer(consumer)
        self._wake()

    def close(self, consumer: Consumer) -> None:
        """The consumer ends for good."""
        self._give_up(consumer, "its consumer was closed")
        consumer.closed = True
        self._notes.consumer(consumer)
        self._forget_closed(consumer)
        self._settle_unwanted()
        self._wake()

    def backlog(self, consumer: Consumer | None = None) -> Backlog:
        """What waits unsealed. Raises a `Failure`."""
        if consumer is not None:
            self._check_failed()
        queue, now = self._holdings.queue, self._clock()
        oldest_received, oldest_publish = queue.oldest_received_at(), queue.oldest_publish_us()
        open_since = self.streams_open_since()
        return Backlog(
            rows=queue.rows,
            bytes=queue.bytes,
            oldest_publish_time=None if oldest_publish is None else rfc3339(oldest_publish),
            oldest_age_s=None if oldest_received is None else now - oldest_received,
            paused=self.pause_reason is not None or self.saturated,
            draining=self.draining,
            streams_open_s=None if open_since is None else now - open_since,
            trouble=self.trouble(),
        )

    def seal(self, consumer: Consumer, epoch: int, *, max_rows: int | None, max_bytes: int | None) -> SealReply:
        """The batch of an epoch: the same one for as long as it exists, whatever the limits of a later call.

        Raises `EpochPast`, a `Failure`, `InvalidRequest`, `DiskFull`.
        """
        self._touch(consumer)
        self._check_past(consumer, epoch)
        for name, limit in (("max_rows", max_rows), ("max_bytes", max_bytes)):
            if limit is not None and limit < 1:
                raise InvalidRequest(f"seal: {name} must be at least 1, not {limit}")
        batch = consumer.batches.get(epoch)
        if batch is None:
            self._check_failed()
            batch = self._new_batch(
                consumer, epoch, max_rows or UNLIMITED, min(max_bytes or UNLIMITED, self._seal_bytes)
            )
        backlog = self.backlog()
        if batch is None:
            return SealReply(backlog=backlog)
        return SealReply(
            backlog=backlog,
            batch=batch.id,
            rows=batch.rows,
            bytes=batch.bytes,
            oldest_publish_time=rfc3339(batch.oldest_publish_us),
            newest_publish_time=rfc3339(batch.newest_publish_us),
        )

    def plan(
        self, consumer: Consumer, epoch: int, batch_id: str, slices: int, columns: Sequence[str] | None, version: int
    ) -> list[PlannedSlice]:
        """The slices of a batch that have rows. Reads only. Raises `BatchGone`, `EpochPast`."""
        self._touch(consumer)
        self._check_past(consumer, epoch)
        batch = consumer.batch(epoch, batch_id)
        chosen = None if columns is None else tuple(columns)
        return [
            PlannedSlice(
                ticket=Ticket(v=version, batch=batch_id, slice=index, slices=slices, rows=size.rows, columns=chosen),
                rows=size.rows,
                bytes=size.bytes,
            )
            for index, size in enumerate(batch.slice_sizes(slices))
            if size.rows
        ]

    def commit(
        self, consumer: Consumer, epochs: Sequence[FinishedEpoch], excluded: frozenset[str], *, contact: bool
    ) -> dict[int, str]:
        """Spark has finished these epochs: acknowledge what their offsets named, give back what they did not."""
        if contact:
            self._touch(consumer)
        states = {finished.epoch: self._finish(consumer, finished, excluded) for finished in epochs}
        newest = max(states, default=0)
        for batch in [b for e, b in consumer.batches.items() if e < newest and e not in states]:
            if batch.state is State.SEALED:  # its commit was missed: it may have been read, so it cannot be requeued
                self._release(consumer, batch, "a later epoch was committed without it")
        self._wake()
        return {epoch: state.value for epoch, state in states.items()}

    def release(self, consumer: Consumer, epoch: int, batch_id: str) -> None:
        """Give one batch back to Pub/Sub. Raises `BatchGone`."""
        self._touch(consumer)
        self._release(consumer, consumer.batch(epoch, batch_id), "released by its consumer")

    # --- after a restart ------------------------------------------------------------------------------------------

    def recover(self, found: Sequence[RecoveredConsumer]) -> None:
        """Take up what a store had of a process before this one, before anything else is asked of this subscription.

        Sealed batches are served again and their leases taken up, unconfirmed acks repeated. A consumer whose last
        contact is too old, or in the future, is given up: the time that the daemon was away counts.
        """
        now = self._clock()
        for one in found:
            silent_s = self._wall() - one.noted.at
            consumer = self.consumers[one.noted.consumer] = one.consumer(self._settings.consumer_timeout_s)
            consumer.last_contact = now - silent_s
            self._share.active |= consumer.contact
            for batch in one.batches:
                self._recover_batch(consumer, batch, now)
            if not 0 <= silent_s < self._settings.consumer_timeout_s or not consumer.contact:
                self._give_up(consumer, "its consumer had no contact while the daemon was away")
            self._forget_closed(consumer)
        self._settle_unwanted()

    def _recover_batch(self, consumer: Consumer, found: RecoveredBatch, now: float) -> None:
        if found.damage is not None:
            reason = f"lost: {found.damage}"
            self._notes.ended(consumer, found.epoch, found.id, reason)
            consumer.bury(found.epoch, Tombstone(found.id, reason))
            return
        batch = Batch(found.epoch, found.chunks(self._share, now), found.id)
        consumer.batches[batch.epoch] = batch
        self._holdings.restore(batch.chunks, now)
        if found.committed:
            batch.move(State.COMMITTED)
            self._send_acks(consumer, batch)

    # --- time ---------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> int:
        """Leases and contact. Returns the rows that lapsed."""
        lapsed = self._holdings.keep_leases(now, self._clock)
        self.judge(now)
        self._wake()
        return lapsed

    def judge(self, now: float) -> None:
        """Release consumers whose contact was lost. Runs before every request, so that none outruns its time-out."""
        for consumer in self.consumers.values():
            if consumer.timed_out(now):
                self._give_up(consumer, f"its consumer had no contact for {self._settings.consumer_timeout_s:g} s")
        self._settle_unwanted()

    def after_jump(self, now: float) -> int:
        """The clock jumped, or the process stood still: drop what lapsed unsealed, and let readers open again."""
        for consumer in self.consumers.values():
            consumer.must_open = True
        return self._holdings.lapse(self._holdings.lapsed_unsealed(now))

    def drain(self) -> None:
        """Pulling has stopped: give the unsealed rows back; what is sealed is served until it is gone."""
        self.draining = True
        self._holdings.release_unsealed()
        self._wake()

    def release_all(self) -> None:
        """The end of a drain: whatever is sealed goes back, unless a store keeps it for the next start."""
        for consumer in [] if self._notes.durable else self.consumers.values():
            self._give_up(consumer, "the daemon was stopped")
        self._holdings.release_unsealed()
        self._holdings.dead_letters.release_all()

    def fail(self, error: Failure) -> None:
        """The service said no for good, or we have a defect; the next call of a driver hears it."""
        self.failed = error
        if isinstance(error, SubscriptionFailed):  # a defect of ours says nothing of the service
            self._holdings.refuse()
        self._wake()

    def try_again(self) -> None:
        """Pull anew after a failure, unless a reader is there to hear of it first."""
        if self.failed is None or any(consumer.contact for consumer in self.consumers.values()):
            return
        self.failed = None
        self._holdings.ask_again(self._clock())
        self._wake()

    def stopped_pulling(self) -> None:
        """Called when no pull stream is open any more, so that what arrived last is not kept for nobody."""
        if self.draining:
            self._holdings.release_unsealed()
        self._settle_unwanted()

    # --- figures ------------------------------------------------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        """The final places of messages."""
        return self._holdings.ledger

    @property
    def batches(self) -> list[Batch]:
        """All batches held."""
        return [batch for consumer in self.consumers.values() for batch in consumer.batches.values()]

    @property
    def used_bytes(self) -> int:
        """What it claims of the budget."""
        return self._share.used_bytes

    def unaccounted(self) -> int:
        """Messages that are in no place or in two; anything but 0 is a defect."""
        return self.accounting().unaccounted

    def accounting(self) -> Accounting:
        """Where every message is now."""
        return self.ledger.accounting(
            buffered=self._holdings.queue.rows,
            in_batches=sum(batch.rows for batch in self.batches),
            dead_letters_pending=self._holdings.dead_letters.rows,
        )

    def statistics(self) -> dict[str, object]:
        """Figures for `status` and `/metrics`."""
        backlog, batches, accounting = self.backlog(), self.batches, self.accounting()
        return {
            **self.ledger.figures(),
            "accounting": dataclasses.asdict(accounting),
            "buffered": backlog.rows,
            "buffered_bytes": backlog.bytes,
            "in_batches": accounting.places["in_batches"],
            "dead_letters_pending": accounting.places["dead_letters_pending"],
            "batches": len([batch for batch in batches if batch.state is State.SEALED]),
            "batches_pending": len([batch for batch in batches if batch.state is State.COMMITTED]),
            "oldest_publish_time": backlog.oldest_publish_time,
            "oldest_age_s": backlog.oldest_age_s,
            "used_bytes": self.used_bytes,
            "share_bytes": self.share_bytes,
            "paused": self.pause_reason,
            "failed": None if self.failed is None else self.failed.message,
            "trouble": backlog.trouble,
            "consumers": {
                consumer.id: {
                    "reader": list(consumer.reader),
                    "contact": consumer.contact,
                    "committed_through": consumer.committed_through,
                    "epochs": sorted(consumer.batches),
                }
                for consumer in self.consumers.values()
            },
        }

    # --- inside -------------------------------------------------------------------------------------------------

    @property
    def needed(self) -> bool:
        """Whether somebody waits for it: `prefetch`, or a consumer with contact."""
        return self.prefetch or any(consumer.contact for consumer in self.consumers.values())

    @property
    def unused(self) -> bool:
        """Whether nothing and nobody would miss it: no consumer, no row, no reader."""
        return not (self.prefetch or self.consumers or self._holdings.queue.rows or self.used_bytes)

    def leave(self) -> None:
        """Give the share of the budget up for good. For one that is unused."""
        self._budget.forget(self._share)

    @property
    def saturated(self) -> bool:
        """Whether the service sends nothing more before something is acknowledged: the streams are full.

        Who waits for more rows than that would wait for ever.
        """
        limit = self.outstanding_limit()
        held = self._holdings.queue.bytes + sum(batch.bytes for batch in self.batches)
        return 0 < SATURATED * limit <= held

    @property
    def _seal_bytes(self) -> int:
        return max(self.share_bytes // SEAL_FRACTION, 1)

    def _new_batch(self, consumer: Consumer, epoch: int, max_rows: int, max_bytes: int) -> Batch | None:
        if self.draining:
            return None
        self._notes.check()
        chunks = self._holdings.take(max_rows, max_bytes)
        if not chunks:
            return None
        batch = consumer.batches[epoch] = Batch(epoch, chunks)
        self._recent_seals.append(batch.bytes)
        self._notes.sealed(consumer, batch, lambda: self._unseal(consumer, batch))
        self._wake()
        return batch

    def _unseal(self, consumer: Consumer, batch: Batch) -> None:
        """A batch whose rows could not be stored: its `seal` was never answered."""
        if batch.state is State.SEALED:
            self._requeue(consumer, batch)
            self._wake()

    def _finish(self, consumer: Consumer, finished: FinishedEpoch, excluded: frozenset[str]) -> CommitState:
        if finished.epoch > consumer.committed_through:
            consumer.committed_through = finished.epoch
            self._notes.consumer(consumer)
        batch = consumer.batches.get(finished.epoch)
        if batch is None:
            tombstone = consumer.ended.get(finished.epoch)
            named = tombstone is not None and tombstone.batch == finished.nodes.get(self.node)
            return CommitState.ACKED if tombstone and named and tombstone.reason == _ACKNOWLEDGED else CommitState.GONE
        if batch.state is State.COMMITTED:
            return CommitState.PENDING
        if batch.id in excluded | consumer.excluded:
            self._release(consumer, batch, "excluded from a plan of its epoch")
            return CommitState.RELEASED
        if finished.nodes.get(self.node) != batch.id:
            self._requeue(consumer, batch)
            return CommitState.REQUEUED
        self._acknowledge(consumer, batch)
        return CommitState.PENDING if batch.epoch in consumer.batches else CommitState.ACKED

    def _acknowledge(self, consumer: Consumer, batch: Batch) -> None:
        batch.move(State.COMMITTED)
        self._notes.committed(consumer, batch)
        self._send_acks(consumer, batch)

    def _send_acks(self, consumer: Consumer, batch: Batch) -> None:
        def done() -> None:
            batch.move(State.GONE)
            self._end(consumer, batch, _ACKNOWLEDGED)
            self._forget_closed(consumer)
            self._wake()

        self._holdings.acknowledge(batch.surrender(), self._clock(), done)

    def _end(self, consumer: Consumer, batch: Batch, reason: str) -> None:
        self._notes.ended(consumer, batch.epoch, batch.id, reason)
        consumer.end(batch, reason)

    def _requeue(self, consumer: Consumer, batch: Batch) -> None:
        batch.move(State.QUEUED)
        self._end(consumer, batch, "requeued: no offset named it")
        self._holdings.put_back(batch.surrender())

    def _release(self, consumer: Consumer, batch: Batch, reason: str) -> None:
        batch.move(State.RELEASED)
        batch.move(State.GONE)
        self._end(consumer, batch, f"released: {reason}")
        chunks = batch.surrender()
        self._holdings.dead_letters.came_back(chunks, self._clock())
        self._holdings.release(chunks)

    def _give_up(self, consumer: Consumer, reason: str) -> None:
        if consumer.contact:
            consumer.lose()
            self._notes.consumer(consumer)
        for batch in list(consumer.batches.values()):
            if batch.state is State.SEALED:
                self._release(consumer, batch, reason)

    def _forget_closed(self, consumer: Consumer) -> None:
        """A closed consumer stays until the acks of its last batch are confirmed."""
        if consumer.closed and not consumer.batches and self.consumers.get(consumer.id) is consumer:
            del self.consumers[consumer.id]
            self._notes.forgotten(consumer)

    def _settle_unwanted(self) -> None:
        if self.prefetch or any(consumer.contact for consumer in self.consumers.values()):
            return
        self._share.active = False
        self._holdings.release_unsealed()

    def _displace_others(self, consumer_id: str, now: float, *, share: bool) -> None:
        """Make room for a consumer that does not share, or among ones that do not. Checks all before it ends any."""
        others = [c for c in self.consumers.values() if c.id != consumer_id and c.contact and not (share and c.share)]
        for other in others:
            if not other.displaceable(now):
                raise SubscriptionShared(
                    f"subscription {self.name} is being read by consumer {other.id} (last heard of "
                    f"{now - other.last_contact:.1f} s ago): stop that query, or set shareSubscription=true on both to "
                    "divide the messages between them",
                    other=other.id,
                )
        for other in others:
            self._give_up(other, "another consumer took the subscription over")

    def _touch(self, consumer: Consumer) -> None:
        consumer.touch(self._clock())
        self._notes.heard(consumer)

    def _check_past(self, consumer: Consumer, epoch: int) -> None:
        if epoch <= consumer.committed_through:
            raise EpochPast(
                f"epoch {epoch} is past: consumer {consumer.id} has committed through {consumer.committed_through}. "
                "Another query moved on, or the checkpoint was rolled back: restart the query from its checkpoint, or "
                "start with a new one",
                committed_through=consumer.committed_through,
            )

    def _check_failed(self) -> None:
        if self.failed is not None:
            raise self.failed

    def _wake(self) -> None:
        """Let everybody who waits look again."""
        self._moved.set()
        self._moved = asyncio.Event()


_ACKNOWLEDGED = "acknowledged"


def rfc3339(time_us: int) -> str:
    """Microseconds since 1970 as `2026-01-31T23:59:59.123456Z`."""
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=time_us)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
