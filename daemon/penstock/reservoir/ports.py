"""What the reservoir needs from the rooms around it, as Protocols that those rooms satisfy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa


@dataclass(frozen=True)
class AckOutcome:
    """How an `acknowledge` ended for good: confirmed, or lost (refused for good, the messages may come again)."""

    confirmed: int
    lost: int


class AckSink(Protocol):
    """Where ack IDs go, per subscription. Calls return at once; the callbacks run later on the loop, exactly once.

    `ack_ids` are string arrays of any length. A sink keeps what it was given until the service has confirmed it: it
    cuts requests, retries with backoff and never forgets a failed one.
    """

    def acknowledge(self, ack_ids: Sequence[pa.Array], settled: Callable[[AckOutcome], None]) -> None:
        """Acknowledge. Retried until confirmed; `settled` when every ID is confirmed or lost for good."""

    def extend(self, ack_ids: Sequence[pa.Array], settled: Callable[[bool], None]) -> None:
        """Renew the lease to the full ack deadline. `settled(True)` when confirmed, False when it failed for now."""

    def release(self, ack_ids: Sequence[pa.Array]) -> None:
        """Give back at once (modack 0). Best effort: what fails lapses by itself."""


class DeadLetterSink(Protocol):
    """Where messages go that were delivered too often, per subscription. The callback runs later on the loop."""

    def publish(self, rows: pa.RecordBatch, settled: Callable[[], None]) -> None:
        """Publish rows (`ROWS_SCHEMA`), whose `delivery_attempt` says how often each was delivered.

        Retried until the service has confirmed every one, however it refuses; then `settled`, once.
        """


class ChunkSink(Protocol):
    """Where decoded messages go, per subscription."""

    def receive(self, rows: pa.RecordBatch, ack_ids: pa.Array, now: float) -> None:
        """Take one decoded chunk (`ROWS_SCHEMA`, ack IDs row by row), received at `now` (seconds of the clock)."""

    @property
    def paused(self) -> bool:
        """Whether pulling must stand still."""

    @property
    def saturated(self) -> bool:
        """Whether the streams' flow control is used up: more streams would bring more, however slow these look."""

    async def wait_resumed(self) -> None:
        """Return when `paused` is False. Safe to cancel."""
