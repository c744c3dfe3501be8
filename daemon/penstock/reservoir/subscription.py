"""One subscription on this node: what its readers may ask, and what those who pull for it must know."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from penstock.change import Change
from penstock.clock import Clock
from penstock.contract import Reader
from penstock.contract.actions import Accounting, FinishedEpoch, PlacedSlice, PlannedSlice, SealReply
from penstock.errors import InvalidRequest
from penstock.reservoir import figures
from penstock.reservoir.accounting import Ledger
from penstock.reservoir.batch import Batch
from penstock.reservoir.budget import Budget
from penstock.reservoir.consumer import Consumer
from penstock.reservoir.evicted import Evicted, Past
from penstock.reservoir.holdings import Holdings
from penstock.reservoir.intake import Intake
from penstock.reservoir.lives import Lives
from penstock.reservoir.notes import Notes
from penstock.reservoir.plans import Dealt
from penstock.reservoir.ports import AckSink, BatchStore, DeadLetterSink, SpillSink
from penstock.reservoir.queue import UNLIMITED
from penstock.reservoir.recovery import RecoveredConsumer
from penstock.reservoir.roster import Roster, check_past
from penstock.reservoir.spilling import Spilling
from penstock.reservoir.supply import Supply
from penstock.settings import ReservoirSettings


class Subscription(Supply):
    """What its readers ask, and what time does to it. `ordered` holds until `pulling` knows better."""

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
        spill: SpillSink | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        share, change = budget.share(settings.weight(name)), Change()
        notes = Notes(name, store, clock, wall)
        holdings = Holdings(
            acks,
            share,
            notes,
            deadline_s=deadline_s,
            max_lease_s=settings.max_lease_s,
            remember_s=settings.remember_s,
            ordered=ordered,
            dead_letters=dead_letters,
            max_delivery_attempts=max_delivery_attempts,
            dedupe_s=settings.dedupe_s,
            dedupe_rows=settings.dedupe_rows,
        )
        intake = Intake(
            budget=budget,
            share=share,
            holdings=holdings,
            notes=notes,
            clock=clock,
            max_buffer_age_s=max_buffer_age_s,
        )
        roster = Roster(name, notes, clock, settings.consumer_timeout_s)
        super().__init__(
            holdings=holdings,
            intake=intake,
            roster=roster,
            change=change,
            share=share,
            clock=clock,
            prefetch=prefetch,
        )
        self.name = name
        self.node = node
        self.dealt = Dealt()
        self._budget = budget
        self._consumer_timeout_s = settings.consumer_timeout_s
        self._notes = notes
        self._wall = wall
        self._spilling = Spilling(spill, share, settings.spill_above)
        self._lives = Lives(node=node, holdings=holdings, notes=notes, roster=roster, change=change, clock=clock)

    # --- readers ------------------------------------------------------------------------------------------------

    def open(
        self,
        consumer_id: str,
        reader: Reader,
        *,
        after: int,
        share: bool,
        dedupe: bool = False,
        past: Past | None = None,
    ) -> Consumer:
        """Let a reader take a consumer over, evicted or not.

        Raises `ReaderFenced`, `SubscriptionShared`, `InvalidRequest`.
        """
        now = self._clock()
        self.judge(now)
        consumer = self._roster.known(consumer_id, past)
        consumer.fence(reader)
        displaced = self._roster.displaced_by(consumer_id, now, share=share)
        self._roster.check_dedupe(consumer_id, displaced, dedupe=dedupe)
        for other in displaced:
            self._lives.give_up(other, "another consumer took the subscription over")
        self._roster.add(consumer)
        consumer.admit(reader, now, share=share)
        consumer.dedupe = dedupe
        self._holdings.dedupe(self.batches, on=dedupe)
        self._notes.consumer(consumer)
        self.failed = None
        self._holdings.ask_again(now)
        self._share.active = True
        # A call that was under way for long may know less than this node.
        self._lives.requeue_unknown(consumer, max(after, consumer.committed_through))
        self._change.tell()
        return consumer

    def alive(self, consumer: Consumer) -> None:
        """The heartbeat says nothing but hears of failures. Raises a `Failure`."""
        self._roster.touch(consumer)
        self._check_failed()

    def bye(self, consumer: Consumer) -> None:
        """Contact is lost at once; nothing is released before another consumer comes or the time is up."""
        consumer.said_bye = True
        self._notes.consumer(consumer)
        self._change.tell()

    def close(self, consumer: Consumer) -> None:
        """The consumer ends for good."""
        self._lives.give_up(consumer, "its consumer was closed")
        consumer.closed = True
        self._notes.consumer(consumer)
        self._roster.forget_closed(consumer)
        self._settle_unwanted()
        self._change.tell()

    def seal(self, consumer: Consumer, epoch: int, *, max_rows: int | None, max_bytes: int | None) -> SealReply:
        """The batch of an epoch: the same one for as long as it exists, whatever the limits of a later call.

        Raises `EpochPast`, a `Failure`, `InvalidRequest`, `DiskFull`.
        """
        self._roster.touch(consumer)
        check_past(consumer, epoch)
        for name, limit in (("max_rows", max_rows), ("max_bytes", max_bytes)):
            if limit is not None and limit < 1:
                raise InvalidRequest(f"seal: {name} must be at least 1, not {limit}")
        batch = consumer.batches.get(epoch)
        if batch is None:
            self._check_failed()
            batch = self._new_batch(consumer, epoch, max_rows or UNLIMITED, max_bytes or UNLIMITED)
        return figures.seal_reply(batch, self.backlog())

    def plan(
        self, consumer: Consumer, epoch: int, batch_id: str, slices: int, columns: Sequence[str] | None, version: int
    ) -> list[PlannedSlice]:
        """The slices of a batch that have rows. Reads only. Raises `BatchGone`, `EpochPast`."""
        self._roster.touch(consumer)
        check_past(consumer, epoch)
        return figures.planned(consumer.batch(epoch, batch_id), slices, columns, version)

    def assign(self, consumer: Consumer, epoch: int, plan_id: str, slices: Sequence[PlacedSlice]) -> None:
        """Deal these slices, of whichever nodes, to the tasks of a plan. Raises `EpochPast`, `InvalidRequest`."""
        check_past(consumer, epoch)
        consumer.plans.assign(plan_id, epoch, slices)

    def exclude(self, consumer: Consumer, epoch: int, batches: Sequence[str]) -> int:
        """Plans of an epoch leave these batches out, of whichever nodes: one that is held here is released with it.

        How many were not known to be excluded. Raises `EpochPast`, `InvalidRequest`.
        """
        check_past(consumer, epoch)
        if news := consumer.exclude(epoch, batches):
            self._notes.consumer(consumer)
        return news

    def commit(
        self, consumer: Consumer, epochs: Sequence[FinishedEpoch], excluded: frozenset[str], *, contact: bool
    ) -> dict[int, str]:
        """Spark has finished these epochs: acknowledge what their offsets named, give back what they did not."""
        if contact:
            self._roster.touch(consumer)
        states = {finished.epoch: self._lives.finish(consumer, finished, excluded) for finished in epochs}
        self._lives.release_missed(consumer, states)
        self._lives.forget_past(consumer)
        self._change.tell()
        return {epoch: state.value for epoch, state in states.items()}

    def release(self, consumer: Consumer, epoch: int, batch_id: str) -> None:
        """Give one batch back to Pub/Sub. Raises `BatchGone`."""
        self._roster.touch(consumer)
        self._lives.release(consumer, consumer.batch(epoch, batch_id), "released by its consumer")

    def evict(self, consumer: Consumer) -> None:
        """Let a consumer without batches go; its fence stays."""
        self._roster.let_go(consumer)

    def remember_consumers_in(self, evicted: Evicted) -> None:
        """What all subscriptions of a node know of consumers that went."""
        self._roster.evicted = evicted

    # --- after a restart ------------------------------------------------------------------------------------------

    def recover(self, found: Sequence[RecoveredConsumer]) -> None:
        """Take up what a store had of a process before this one, before anything else is asked of this subscription.

        Sealed batches are served again and their leases taken up, unconfirmed acks repeated. A consumer whose last
        contact is too old, or in the future, is given up: the time that the daemon was away counts.
        """
        now = self._clock()
        for one in found:
            silent_s = self._wall() - one.noted.at
            consumer = one.consumer(self._consumer_timeout_s)
            self._roster.add(consumer)
            consumer.last_contact = now - silent_s
            self._share.active |= consumer.contact
            for batch in one.batches:
                self._lives.recover(consumer, batch, self._share, now)
            if not 0 <= silent_s < self._consumer_timeout_s or not consumer.contact:
                self._lives.give_up(consumer, "its consumer had no contact while the daemon was away")
            self._roster.forget_closed(consumer)
        self._settle_unwanted()

    # --- time and failures --------------------------------------------------------------------------------------

    def tick(self, now: float) -> int:
        """Leases, contact and what is to spill. Returns the rows that lapsed."""
        lapsed = self._holdings.keep_leases(now, self._clock)
        self.judge(now)
        self._spilling.spill_due(self.batches, self.share_bytes)
        self._change.tell()
        return lapsed

    def judge(self, now: float) -> None:
        """Release consumers whose contact was lost. Runs before every request, so that none outruns its time-out."""
        for consumer in self._roster.timed_out(now):
            self._lives.give_up(consumer, f"its consumer had no contact for {self._consumer_timeout_s:g} s")
        self._settle_unwanted()

    def after_jump(self, now: float) -> int:
        """The clock jumped, or the process stood still: drop what lapsed unsealed, and let readers open again."""
        self._roster.distrust()
        return self._holdings.lapse(self._holdings.lapsed_unsealed(now))

    def drain(self) -> None:
        """Pulling has stopped: give the unsealed rows back; what is sealed is served until it is gone."""
        self._intake.draining = True
        self._holdings.release_unsealed()
        self._change.tell()

    def release_all(self) -> None:
        """The end of a drain: whatever is sealed goes back, unless a store keeps it for the next start."""
        for consumer in [] if self._notes.durable else self.consumers.values():
            self._lives.give_up(consumer, "the daemon was stopped")
        self._holdings.release_unsealed()
        self._holdings.dead_letters.release_all()
        self._holdings.duplicates.release_all()

    def leave(self) -> None:
        """Give the share of the budget up for good. For one that is unused."""
        self._budget.forget(self._share)

    # --- figures ------------------------------------------------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        """The final places of messages."""
        return self._holdings.ledger

    @property
    def spilled_bytes(self) -> int:
        """What its batches have in temporary files, which no budget counts."""
        return sum(batch.filed_bytes for batch in self._spilling.spilled(self.batches))

    @property
    def unused(self) -> bool:
        """Whether nothing and nobody would miss it: no consumer, no row, no reader."""
        return not (self.prefetch or self.consumers or self._holdings.queue.rows or self.used_bytes)

    def unaccounted(self) -> int:
        """Messages that are in no place or in two; anything but 0 is a defect."""
        return self.accounting().unaccounted

    def accounting(self) -> Accounting:
        """Where every message is now."""
        return figures.accounting(self._holdings, self.batches)

    def statistics(self) -> dict[str, object]:
        """Figures for `status` and `/metrics`."""
        return {
            **figures.statistics(self._holdings, self.batches, self.consumers.values(), self.backlog()),
            "claims": self.dealt.claims,
            "claims_local": self.dealt.local,
            "batches_spilled": len(self._spilling.spilled(self.batches)),
            "spilled_bytes": self.spilled_bytes,
            "used_bytes": self.used_bytes,
            "share_bytes": self.share_bytes,
            "paused": self.pause_reason,
            "failed": None if self.failed is None else self.failed.message,
        }

    # --- inside -------------------------------------------------------------------------------------------------

    def _new_batch(self, consumer: Consumer, epoch: int, max_rows: int, max_bytes: int) -> Batch | None:
        if self.draining:
            return None
        batch = self._lives.seal(consumer, epoch, max_rows, min(max_bytes, self._intake.seal_bytes))
        if batch is not None:
            self._intake.sealed(batch.bytes)
        return batch
