"""What decisions add up to: applied as they are made, and again from the journal after a restart."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from penstock.reservoir.consumer import TOMBSTONES
from penstock.reservoir.decisions import (
    BatchCommitted,
    BatchEnded,
    BatchSealed,
    ConsumerEvicted,
    ConsumerHeard,
    ConsumerNoted,
    Decision,
    Piece,
    SubscriptionDropped,
    SubscriptionHeld,
)
from penstock.reservoir.evicted import EVICTED


@dataclass
class BatchState:
    """A batch that is held."""

    id: str
    pieces: tuple[Piece, ...]
    committed: bool = False


@dataclass
class ConsumerState:
    """A consumer, what it holds by epoch, and how its last batches ended: epoch → (batch ID, reason)."""

    noted: ConsumerNoted
    batches: dict[int, BatchState] = field(default_factory=dict)
    ended: OrderedDict[int, tuple[str, str]] = field(default_factory=OrderedDict)


@dataclass
class SubscriptionState:
    """A subscription and its consumers by ID."""

    held: SubscriptionHeld
    consumers: dict[str, ConsumerState] = field(default_factory=dict)


class State:
    """All subscriptions of a node by name, and the consumers that made room."""

    def __init__(self) -> None:
        self.subscriptions: dict[str, SubscriptionState] = {}
        self.evicted: OrderedDict[str, ConsumerEvicted] = OrderedDict()

    def apply(self, decision: Decision) -> None:  # noqa: C901 - one line or two for each kind
        """Take one decision in. What is about something unknown changes nothing: it has ended since."""
        match decision:
            case SubscriptionHeld(subscription):
                known = self.subscriptions.get(subscription)
                self.subscriptions[subscription] = SubscriptionState(decision, known.consumers if known else {})
            case SubscriptionDropped(subscription):
                self.subscriptions.pop(subscription, None)
            case ConsumerNoted():
                self._note(decision)
            case ConsumerHeard(at=at):
                if (consumer := self._consumer(decision.subscription, decision.consumer)) is not None:
                    consumer.noted = replace(consumer.noted, at=at)
            case ConsumerEvicted(consumer=consumer_id):
                for held in self.subscriptions.values():
                    held.consumers.pop(consumer_id, None)
                self.evicted[consumer_id] = decision
                while len(self.evicted) > EVICTED:
                    self.evicted.popitem(last=False)
            case BatchSealed() | BatchCommitted() | BatchEnded():
                if (consumer := self._consumer(decision.subscription, decision.consumer)) is not None:
                    _apply_to_batch(consumer, decision)

    def decisions(self) -> Iterator[Decision]:
        """The fewest decisions that add up to this."""
        yield from self.evicted.values()
        for name, subscription in self.subscriptions.items():
            yield subscription.held
            for consumer_id, consumer in subscription.consumers.items():
                yield consumer.noted
                for epoch, (batch, reason) in consumer.ended.items():
                    yield BatchEnded(name, consumer_id, epoch, batch, reason)
                for epoch, held in consumer.batches.items():
                    yield BatchSealed(name, consumer_id, epoch, held.id, held.pieces)
                    if held.committed:
                        yield BatchCommitted(name, consumer_id, epoch, held.id)

    def _note(self, noted: ConsumerNoted) -> None:
        subscription = self.subscriptions.get(noted.subscription)
        if subscription is None:
            return
        known = subscription.consumers.get(noted.consumer)
        if known is None:
            subscription.consumers[noted.consumer] = ConsumerState(noted)
        else:
            known.noted = noted
        self.evicted.pop(noted.consumer, None)

    def _consumer(self, subscription: str, consumer: str) -> ConsumerState | None:
        held = self.subscriptions.get(subscription)
        return None if held is None else held.consumers.get(consumer)


def _apply_to_batch(consumer: ConsumerState, decision: BatchSealed | BatchCommitted | BatchEnded) -> None:
    held = consumer.batches.get(decision.epoch)
    if isinstance(decision, BatchSealed):
        consumer.batches[decision.epoch] = BatchState(decision.batch, decision.pieces)
    elif isinstance(decision, BatchCommitted):
        if held is not None and held.id == decision.batch:
            held.committed = True
    else:
        if held is not None and held.id == decision.batch:
            del consumer.batches[decision.epoch]
        consumer.ended[decision.epoch] = (decision.batch, decision.reason)
        consumer.ended.move_to_end(decision.epoch)
        while len(consumer.ended) > TOMBSTONES:
            consumer.ended.popitem(last=False)
