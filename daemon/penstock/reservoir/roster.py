"""The consumers of one subscription: who may speak, who has contact, and which epochs are past."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.clock import Clock
from penstock.errors import EpochPast, InvalidRequest, SubscriptionShared
from penstock.reservoir.batch import Batch
from penstock.reservoir.consumer import Consumer
from penstock.reservoir.evicted import Evicted, Past
from penstock.reservoir.notes import Notes


class Roster:
    """All consumers by ID. Decides on contact; what becomes of their batches is `Lives`' to do.

    Those that go are in `evicted`, which the subscriptions of a node share.
    """

    def __init__(self, subscription: str, notes: Notes, clock: Clock, consumer_timeout_s: float) -> None:
        self.evicted = Evicted()
        self.by_id: dict[str, Consumer] = {}
        self._subscription = subscription
        self._notes = notes
        self._clock = clock
        self._timeout_s = consumer_timeout_s

    @property
    def in_contact(self) -> bool:
        """Whether any consumer has contact."""
        return any(consumer.contact for consumer in self.by_id.values())

    @property
    def wants(self) -> bool:
        """Whether any consumer wants more: it has contact and did not say `bye`."""
        return any(consumer.contact and not consumer.said_bye for consumer in self.by_id.values())

    @property
    def batches(self) -> list[Batch]:
        """All batches that they hold."""
        return [batch for consumer in self.by_id.values() for batch in consumer.batches.values()]

    def known(self, consumer_id: str, past: Past | None) -> Consumer:
        """The consumer of that ID, or a new one that knows of its `past`. Not in the roster before `add`."""
        consumer = self.by_id.get(consumer_id) or Consumer(consumer_id, self._timeout_s)
        if past is not None:
            consumer.reader = past.reader
            if past.subscription == self._subscription:  # epochs of another one say nothing of this one's
                consumer.committed_through = past.committed_through
        return consumer

    def add(self, consumer: Consumer) -> None:
        """It belongs here from now on."""
        self.by_id[consumer.id] = consumer

    def displaced_by(self, consumer_id: str, now: float, *, share: bool) -> list[Consumer]:
        """Who ends so that this consumer gets the subscription, or its part of it.

        Raises `SubscriptionShared` if one of them must not be ended.
        """
        others = [c for c in self.by_id.values() if c.id != consumer_id and c.contact and not (share and c.share)]
        for other in others:
            if not other.displaceable(now):
                raise SubscriptionShared(
                    f"subscription {self._subscription} is being read by consumer {other.id} (last heard of "
                    f"{now - other.last_contact:.1f} s ago): stop that query, or set shareSubscription=true on both to "
                    "divide the messages between them",
                    other=other.id,
                )
        return others

    def check_dedupe(self, consumer_id: str, displaced: Sequence[Consumer], *, dedupe: bool) -> None:
        """Those who divide a subscription see it alike. Raises `InvalidRequest`.

        Whoever has to `open` first says it then.
        """
        for other in self.by_id.values():
            stays = other.id != consumer_id and other.contact and not other.must_open and other not in displaced
            if stays and other.dedupe is not dedupe:
                raise InvalidRequest(
                    f"subscription {self._subscription} is shared with consumer {other.id}, which reads it with "
                    f"dedupe={str(other.dedupe).lower()}: set the same on all that share it",
                    other=other.id,
                )

    def timed_out(self, now: float) -> list[Consumer]:
        """Those whose contact was lost for too long."""
        return [consumer for consumer in self.by_id.values() if consumer.timed_out(now)]

    def touch(self, consumer: Consumer) -> None:
        """An unfenced reader has spoken."""
        consumer.touch(self._clock())
        self._notes.heard(consumer)

    def lose(self, consumer: Consumer) -> None:
        """Its contact is over."""
        if consumer.contact:
            consumer.lose()
            self._notes.consumer(consumer)

    def distrust(self) -> None:
        """Time went on without us: every reader has to `open` before its next call."""
        for consumer in self.by_id.values():
            consumer.must_open = True

    def forget_closed(self, consumer: Consumer) -> None:
        """A closed consumer stays until the acks of its last batch are confirmed."""
        if consumer.closed and not consumer.batches and self.by_id.get(consumer.id) is consumer:
            self.let_go(consumer)

    def let_go(self, consumer: Consumer) -> None:
        """It is here no more, but a reader of it that is still alive somewhere stays fenced."""
        del self.by_id[consumer.id]
        past = Past(self._subscription, consumer.reader, consumer.committed_through, closed=consumer.closed)
        self.evicted.add(consumer.id, past)
        self._notes.gone(consumer, past)


def check_past(consumer: Consumer, epoch: int) -> None:
    """Raises `EpochPast` for an epoch that the consumer has committed through."""
    if epoch <= consumer.committed_through:
        raise EpochPast(
            f"epoch {epoch} is past: consumer {consumer.id} has committed through {consumer.committed_through}. "
            "Another query moved on, or the checkpoint was rolled back: restart the query from its checkpoint, or "
            "start with a new one",
            committed_through=consumer.committed_through,
        )
