"""The output topic: read to its end by the harness itself, and compared with what was published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from google.pubsub_v1 import SubscriberClient

from penstock.contract.publishing import TRACE_KEYS

PULLED = 1000
"""Messages of one Pull, the service's most."""

Name = tuple[str, ...]
"""The values of a message's tracing attributes."""


@dataclass(frozen=True)
class Sunk:
    """Counts of messages; `misnamed` of names. See `Outcome`."""

    messages: int
    lost: int
    duplicates: int
    duplicates_after_dedupe: int
    misnamed: int


def drained(subscription: str) -> list[tuple[Name, int]]:
    """Name and number of every message of a subscription, which is empty afterwards."""
    found: dict[str, tuple[Name, int]] = {}
    with SubscriberClient() as client:
        # An answer without messages comes after some seconds of waiting: then there are none.
        while got := client.pull(subscription=subscription, max_messages=PULLED, timeout=30).received_messages:
            for message in (received.message for received in got):
                attributes = message.attributes
                found[message.message_id] = tuple(attributes[key] for key in TRACE_KEYS), int(message.data)
            client.acknowledge(subscription=subscription, ack_ids=[received.ack_id for received in got])
    return list(found.values())


def compared(messages: Iterable[tuple[Name, int]], published: int) -> Sunk:
    """With the numbers below `published`, each of which must be there."""
    numbers: Counter[int] = Counter()
    named: dict[Name, set[int]] = {}
    for name, number in messages:
        numbers[number] += 1
        named.setdefault(name, set()).add(number)
    once = Counter(number for found in named.values() for number in found)
    return Sunk(
        messages=numbers.total(),
        lost=len(set(range(published)) - set(numbers)),
        duplicates=numbers.total() - len(numbers),
        duplicates_after_dedupe=once.total() - len(once),
        misnamed=sum(len(found) > 1 for found in named.values()),
    )
