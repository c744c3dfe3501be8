"""Consumers that were closed, or made room for others: what must outlive them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from penstock.contract import Reader

EVICTED = 4096
"""Consumers remembered, a few MB with the longest names: a fence outlives 4,096 others that came and went."""


@dataclass(frozen=True)
class Past:
    """What a consumer had reached when it went. One that was `closed` may come back for another subscription."""

    subscription: str
    reader: Reader
    committed_through: int
    closed: bool = False


class Evicted:
    """The consumers that went last, by ID; the oldest make room."""

    def __init__(self) -> None:
        self._past: OrderedDict[str, Past] = OrderedDict()

    def __len__(self) -> int:
        """Consumers."""
        return len(self._past)

    def get(self, consumer_id: str) -> Past | None:
        """What is remembered of a consumer."""
        return self._past.get(consumer_id)

    def add(self, consumer_id: str, past: Past) -> None:
        """Remember one."""
        self._past[consumer_id] = past
        self._past.move_to_end(consumer_id)
        while len(self._past) > EVICTED:
            self._past.popitem(last=False)

    def forget(self, consumer_id: str) -> None:
        """It is back, and knows more by itself."""
        self._past.pop(consumer_id, None)
