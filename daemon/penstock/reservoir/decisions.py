"""What a node decided, as a store keeps it: each is durable before it is answered or acted on.

Applied in order they rebuild the node. Those of one consumer or batch say its whole state, so that one that is applied
twice changes nothing. Times are seconds of the wall clock, since a restart may be one of the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from penstock.contract import Reader
from penstock.reservoir.kept import Kept


class Piece(NamedTuple):
    """Consecutive rows of a chunk as it was appended."""

    kept: Kept
    first_row: int
    rows: int


@dataclass(frozen=True)
class SubscriptionHeld:
    """A subscription is served, with what the service said of it (None: unknown)."""

    subscription: str
    ordering: bool | None
    exactly_once: bool | None


@dataclass(frozen=True)
class SubscriptionDropped:
    """Nobody used a subscription any more, and it is forgotten with all its consumers."""

    subscription: str


@dataclass(frozen=True)
class ConsumerNoted:
    """All there is to know of a consumer but its batches; `at` is the time of its last contact.

    `excluded`: batch ID → epoch.
    """

    subscription: str
    consumer: str
    reader: Reader
    share: bool
    contact: bool
    said_bye: bool
    closed: bool
    committed_through: int
    excluded: Mapping[str, int]
    at: float


@dataclass(frozen=True)
class ConsumerHeard:
    """A consumer's last contact; the only one that nobody waits for."""

    subscription: str
    consumer: str
    at: float


@dataclass(frozen=True)
class ConsumerEvicted:
    """A consumer made room, or was closed and is gone with its last batch; its fence outlives it."""

    subscription: str
    consumer: str
    reader: Reader
    committed_through: int
    closed: bool = False


@dataclass(frozen=True)
class BatchSealed:
    """A batch and its rows, in order."""

    subscription: str
    consumer: str
    epoch: int
    batch: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class BatchCommitted:
    """Spark has finished a batch: its acks are on their way until it ends."""

    subscription: str
    consumer: str
    epoch: int
    batch: str


@dataclass(frozen=True)
class BatchEnded:
    """A batch is no more: acknowledged, requeued, released or lost, as `reason` says."""

    subscription: str
    consumer: str
    epoch: int
    batch: str
    reason: str


Decision: TypeAlias = (
    SubscriptionHeld
    | SubscriptionDropped
    | ConsumerNoted
    | ConsumerHeard
    | ConsumerEvicted
    | BatchSealed
    | BatchCommitted
    | BatchEnded
)
