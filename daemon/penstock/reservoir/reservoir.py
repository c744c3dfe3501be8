"""All subscriptions of a node: finds the one that a call is about, and watches the clock for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from penstock.clock import Clock
from penstock.contract import MAX_CONSUMERS, MAX_SLICES, Reader, new_id, new_node, project
from penstock.contract.actions import PlacedSlice, Ticket
from penstock.errors import InvalidRequest, OpenAgain, TooManyConsumers
from penstock.reservoir.batch import Batch, Snapshot, State
from penstock.reservoir.budget import Budget
from penstock.reservoir.consumer import Consumer, Tombstone, fence, gone
from penstock.reservoir.decisions import ConsumerEvicted, SubscriptionDropped
from penstock.reservoir.evicted import Evicted, Past
from penstock.reservoir.plans import MAX_PLANNED_SLICES, MAX_PLANS, Dealt, Plan, plan_gone
from penstock.reservoir.ports import BatchStore, SpillSink
from penstock.reservoir.subscription import Subscription
from penstock.settings import ReservoirSettings

JUMP_S = 5.0
"""A tick this late means a suspended machine, a stopped process or a stepped clock (design.md, section 5)."""


class Reservoir:
    """What one node holds. `incarnation` ends with the process, and so does `node` unless a store knows it."""

    def __init__(
        self,
        settings: ReservoirSettings,
        clock: Clock,
        *,
        site: str = "here",
        node: str | None = None,
        store: BatchStore | None = None,
        spill: SpillSink | None = None,
    ) -> None:
        self.node = node or new_node(site)
        self.store = store
        self.spill = spill
        self.incarnation = new_id()
        self.settings = settings
        self.budget = Budget(settings.memory_limit_bytes, high=settings.high, low=settings.low)
        self.subscriptions: dict[str, Subscription] = {}
        self._clock = clock
        self._evicted = Evicted()
        self._last_tick: float | None = None
        self._lapsed_rows = 0
        self._pauses_s: list[float] = []

    def add(self, subscription: Subscription) -> None:
        """Hold one more subscription."""
        subscription.remember_consumers_in(self._evicted)
        self.subscriptions[subscription.name] = subscription

    def remove(self, subscription: Subscription) -> None:
        """Forget one that is unused."""
        subscription.leave()
        if self.store is not None:
            self.store.record(SubscriptionDropped(subscription.name))
        del self.subscriptions[subscription.name]

    def open(
        self,
        subscription: Subscription,
        consumer_id: str,
        reader: Reader,
        *,
        after: int,
        share: bool,
        dedupe: bool = False,
    ) -> Consumer:
        """`Subscription.open`, within the limit of consumers and one subscription for each.

        Raises `TooManyConsumers`, `InvalidRequest`, and what `Subscription.open` does.
        """
        self._catch_up()
        known, past = self._find(consumer_id), self._evicted.get(consumer_id)
        reads = known.name if known is not None else None if past is None or past.closed else past.subscription
        if reads not in {None, subscription.name}:
            raise InvalidRequest(f"consumer {consumer_id} reads {reads}; it cannot open {subscription.name} as well")
        if past is not None:
            fence(consumer_id, past.reader, reader)
        if known is None:
            self._make_room()
        consumer = subscription.open(consumer_id, reader, after=after, share=share, dedupe=dedupe, past=past)
        self._evicted.forget(consumer_id)
        return consumer

    def enter(self, consumer_id: str, reader: Reader) -> tuple[Subscription, Consumer]:
        """What a call of a reader is about, time-outs judged first. Raises `OpenAgain`, `ReaderFenced`."""
        self._catch_up()
        subscription = self._find(consumer_id)
        if subscription is None:
            if (past := self._evicted.get(consumer_id)) is not None:
                fence(consumer_id, past.reader, reader)
            raise OpenAgain(f"this daemon does not know consumer {consumer_id}: call open")
        subscription.judge(self._clock())
        consumer = subscription.consumers[consumer_id]
        consumer.check(reader)
        return subscription, consumer

    def generation(self, consumer_id: str) -> int:
        """The highest generation seen of a consumer; 0 when unknown."""
        subscription = self._find(consumer_id)
        if subscription is not None:
            return subscription.consumers[consumer_id].reader.generation
        past = self._evicted.get(consumer_id)
        return 0 if past is None else past.reader.generation

    def read(self, ticket: Ticket) -> Snapshot:
        """The rows of a ticket. Raises `BatchGone` or `InvalidRequest`."""
        if not 1 <= ticket.slices <= MAX_SLICES or not 0 <= ticket.slice < ticket.slices:
            raise InvalidRequest(
                f"ticket: slice {ticket.slice} of {ticket.slices}; 1 to {MAX_SLICES} slices, counted from 0"
            )
        project(ticket.columns)
        self._catch_up()
        snapshot = self._batch(ticket.batch).snapshot(ticket.slice, ticket.slices)
        if snapshot.rows != ticket.rows:
            raise InvalidRequest(
                f"ticket: slice {ticket.slice} of {ticket.slices} has {snapshot.rows} rows, not {ticket.rows}"
            )
        return snapshot

    def assign(
        self, consumer_id: str, reader: Reader, epoch: int, plan_id: str, slices: Sequence[PlacedSlice]
    ) -> Dealt:
        """Be the host of a reader's plan; what the subscription's hosts here have dealt so far.

        Raises `InvalidRequest`, `EpochPast`, and what `enter` does.
        """
        subscription, consumer = self.enter(consumer_id, reader)
        known = self._plan(plan_id)
        if known is not None and known[1] is not consumer.plans.get(plan_id):
            raise InvalidRequest(f"assign: plan {plan_id} is another consumer's: a list needs a plan ID of its own")
        subscription.assign(consumer, epoch, plan_id, slices)
        return subscription.dealt

    def claim(self, plan_id: str, incarnation: str, partition: int, near: str | None) -> PlacedSlice:
        """The slice of one partition of a plan, the same one every time. Raises `PlanGone`, `InvalidRequest`."""
        if incarnation != self.incarnation:
            raise plan_gone(plan_id, "the daemon that dealt its slices was restarted")
        found = self._plan(plan_id)
        if found is None:
            raise plan_gone(
                plan_id,
                "its epoch is past, or its query was given up or has planned many times since (if it reads the stream "
                f"several times in one batch: {MAX_PLANS} plans of {MAX_PLANNED_SLICES} slices together are kept, so "
                "set a lower numPartitions)",
            )
        subscription, plan = found
        return plan.claim(partition, near, subscription.dealt)

    def recover_evicted(self, found: Iterable[ConsumerEvicted]) -> None:
        """Take up the fences of consumers that went in a process before this one, oldest first."""
        for one in found:
            past = Past(one.subscription, one.reader, one.committed_through, closed=one.closed)
            self._evicted.add(one.consumer, past)

    async def durable(self) -> None:
        """Return when every decision so far outlives this process, if any may. Raises `DiskFull`."""
        if self.store is not None:
            await self.store.durable()

    def storage(self) -> dict[str, object] | None:
        """Figures of the store, for `status` and metrics; None where there is none."""
        return None if self.store is None else self.store.statistics()

    def spilled(self) -> dict[str, object] | None:
        """Figures of the temporary files, for `status` and metrics; None where there are none."""
        return None if self.spill is None else self.spill.statistics()

    def tick(self) -> int:
        """Leases and contact of all subscriptions; call it a few times a second. Returns the rows that lapsed."""
        self._catch_up()
        lapsed, self._lapsed_rows = self._lapsed_rows, 0
        now = self._clock()
        return lapsed + sum(subscription.tick(now) for subscription in self.subscriptions.values())

    def pauses_s(self) -> list[float]:
        """How long time went on without us, each time since this was asked last."""
        pauses_s, self._pauses_s = self._pauses_s, []
        return pauses_s

    def _catch_up(self) -> None:
        """Notice that time went on without us, before anything is decided on leases that may be over."""
        now = self._clock()
        last, self._last_tick = self._last_tick, now
        if last is None or now - last <= JUMP_S:
            return
        self._pauses_s.append(now - last)
        self._lapsed_rows += sum(subscription.after_jump(now) for subscription in self.subscriptions.values())

    def _find(self, consumer_id: str) -> Subscription | None:
        return next((s for s in self.subscriptions.values() if consumer_id in s.consumers), None)

    def _plan(self, plan_id: str) -> tuple[Subscription, Plan] | None:
        for subscription in self.subscriptions.values():
            for consumer in subscription.consumers.values():
                if (plan := consumer.plans.get(plan_id)) is not None:
                    return subscription, plan
        return None

    def _batch(self, batch_id: str) -> Batch:
        tombstone: Tombstone | None = None
        for subscription in self.subscriptions.values():
            for consumer in subscription.consumers.values():
                for batch in consumer.batches.values():
                    if batch.id == batch_id and batch.state is State.SEALED:
                        return batch
                    if batch.id == batch_id:
                        tombstone = Tombstone(batch_id, batch.state.value)
                tombstone = next((t for t in consumer.ended.values() if t.batch == batch_id), tombstone)
        raise gone(batch_id, None, tombstone)

    def _make_room(self) -> None:
        """When there are too many, evict one: that said bye, or else the one silent for longest.

        Never one with contact or batches, nor with batches that are excluded: the driver that comes back must hear of
        those. Its fence and what it has committed are remembered.
        """
        everybody = [(s, c) for s in self.subscriptions.values() for c in s.consumers.values()]
        if len(everybody) < MAX_CONSUMERS:
            return
        idle = [(s, c) for s, c in everybody if (c.said_bye or not c.contact) and not (c.batches or c.excluded)]
        if not idle:
            raise TooManyConsumers(
                f"this daemon serves {MAX_CONSUMERS} consumers already: stop one, or run another daemon"
            )
        subscription, consumer = min(idle, key=lambda one: (not one[1].said_bye, one[1].last_contact, one[1].id))
        subscription.evict(consumer)
