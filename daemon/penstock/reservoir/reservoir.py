"""All subscriptions of a node: finds the one that a call is about, and watches the clock for all of them."""

from __future__ import annotations

from penstock.clock import Clock
from penstock.contract import MAX_CONSUMERS, MAX_SLICES, Reader, new_id, new_node, project
from penstock.contract.actions import Ticket
from penstock.errors import InvalidRequest, OpenAgain, TooManyConsumers
from penstock.reservoir.batch import Batch, Snapshot, State
from penstock.reservoir.budget import Budget
from penstock.reservoir.consumer import Consumer, Tombstone, gone
from penstock.reservoir.subscription import Subscription
from penstock.settings import ReservoirSettings

JUMP_S = 5.0
"""A tick this late means a suspended machine, a stopped process or a stepped clock (design.md, section 5)."""


class Reservoir:
    """What one node holds. Its memory ends with the process, and so do its `node` and `incarnation`."""

    def __init__(self, settings: ReservoirSettings, clock: Clock, *, site: str = "here") -> None:
        self.node = new_node(site)
        self.incarnation = new_id()
        self.settings = settings
        self.budget = Budget(settings.memory_limit_bytes, high=settings.high, low=settings.low)
        self.subscriptions: dict[str, Subscription] = {}
        self._clock = clock
        self._last_tick: float | None = None

    def add(self, subscription: Subscription) -> None:
        """Hold one more subscription."""
        self.subscriptions[subscription.name] = subscription

    def open(
        self, subscription: Subscription, consumer_id: str, reader: Reader, *, after: int, share: bool
    ) -> Consumer:
        """`Subscription.open`, within the limit of consumers and one subscription for each.

        Raises `TooManyConsumers`, `InvalidRequest`, and what `Subscription.open` does.
        """
        self._catch_up()
        known = self._find(consumer_id)
        if known is not None and known is not subscription:
            raise InvalidRequest(
                f"consumer {consumer_id} reads {known.name}; it cannot open {subscription.name} as well"
            )
        if known is None:
            self._make_room()
        return subscription.open(consumer_id, reader, after=after, share=share)

    def enter(self, consumer_id: str, reader: Reader) -> tuple[Subscription, Consumer]:
        """What a call of a reader is about, time-outs judged first. Raises `OpenAgain`, `ReaderFenced`."""
        self._catch_up()
        subscription = self._find(consumer_id)
        if subscription is None:
            raise OpenAgain(f"this daemon does not know consumer {consumer_id}: call open")
        subscription.judge(self._clock())
        consumer = subscription.consumers[consumer_id]
        consumer.check(reader)
        return subscription, consumer

    def generation(self, consumer_id: str) -> int:
        """The highest generation seen of a consumer; 0 when unknown."""
        subscription = self._find(consumer_id)
        return 0 if subscription is None else subscription.consumers[consumer_id].reader.generation

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

    def tick(self) -> int:
        """Leases and contact of all subscriptions; call it a few times a second. Returns the rows that lapsed."""
        lapsed = self._catch_up()
        now = self._clock()
        return lapsed + sum(subscription.tick(now) for subscription in self.subscriptions.values())

    def _catch_up(self) -> int:
        """Notice that time went on without us, before anything is decided on leases that may be over."""
        now = self._clock()
        last, self._last_tick = self._last_tick, now
        if last is None or now - last <= JUMP_S:
            return 0
        return sum(subscription.after_jump(now) for subscription in self.subscriptions.values())

    def _find(self, consumer_id: str) -> Subscription | None:
        return next((s for s in self.subscriptions.values() if consumer_id in s.consumers), None)

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
        """When there are too many, forget the one silent for longest; never one with contact or batches."""
        everybody = [(c.last_contact, c.id, s) for s in self.subscriptions.values() for c in s.consumers.values()]
        if len(everybody) < MAX_CONSUMERS:
            return
        idle = [
            (at, name, s)
            for at, name, s in everybody
            if not s.consumers[name].contact and not s.consumers[name].batches
        ]
        if not idle:
            raise TooManyConsumers(
                f"this daemon serves {MAX_CONSUMERS} consumers already: stop one, or run another daemon"
            )
        _, name, subscription = min(idle, key=lambda entry: entry[:2])
        del subscription.consumers[name]
