"""What the reservoir needs from the rooms around it, as Protocols that those rooms satisfy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from penstock.reservoir.decisions import Decision
from penstock.reservoir.kept import Copy, Kept


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

    def release(self, ack_ids: Sequence[pa.Array], settled: Callable[[], None]) -> None:
        """Give back at once (modack 0). Best effort: what fails lapses by itself.

        `settled` when none of them is held here any more, however it went.
        """


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


class Pulling(Protocol):
    """What a subscription has to know of the pull streams, of whoever runs them."""

    @property
    def streams_open_since(self) -> float | None:
        """Since when all of them are open (seconds of the clock); None while one is not."""

    @property
    def outstanding_limit_bytes(self) -> int:
        """What the service sends at most before something is acknowledged; 0 while none is open."""

    @property
    def ordered(self) -> bool | None:
        """Whether the service keeps messages of a key in order; None where nobody has heard yet."""

    @property
    def exactly_once(self) -> bool:
        """Whether the service wants to hear of every message that it was received."""

    @property
    def trouble(self) -> str | None:
        """What the service has refused for a while, for people; None while it has not."""


@dataclass(frozen=True)
class NotPulling:
    """Satisfies `Pulling` where nobody pulls."""

    streams_open_since: float | None = None
    outstanding_limit_bytes: int = 0
    ordered: bool | None = None
    exactly_once: bool = False
    trouble: str | None = None


class SpillSink(Protocol):
    """Temporary files, for batches that need not outlive the process."""

    @property
    def ready(self) -> bool:
        """Whether it takes a batch now: not while it writes one, nor for a while after it could not."""

    def spill(
        self, batch_id: str, chunks: Sequence[tuple[Copy, Kept]], done: Callable[[Sequence[Copy] | None], None]
    ) -> None:
        """Begin to write the chunks of a batch. Later on the loop `done` gets them as mapped memory, in their order.

        None if they could not be written. What was written goes when nothing refers to its `Kept` any more.
        """

    def statistics(self) -> dict[str, object]:
        """For `status` and metrics: what was written, and why nothing can be."""


class BatchStore(Protocol):
    """Where batches and decisions outlive the process. Calls return at once and take effect in their order."""

    @property
    def is_memory(self) -> bool:
        """Whether what it holds is memory of this machine, so that it counts in the budget."""

    @property
    def problem(self) -> str | None:
        """Why nothing can be stored now, for people, with the way out; None while it can."""

    def append(self, subscription: str, rows: Copy, kept: Kept, written: Callable[[Copy], None]) -> None:
        """Begin to write a chunk. When it is there, `kept` has its place, and `written` gets it as mapped memory."""

    def record(self, decision: Decision, *, lazily: bool = False, refused: Callable[[], None] | None = None) -> None:
        """Write a decision down. `lazily`: nobody waits for it.

        `refused` is called instead if the rows of a `BatchSealed` could not be stored.
        """

    def after(self, act: Callable[[], None]) -> None:
        """Do this once all that was recorded so far is durable: now, if it is."""

    def statistics(self) -> dict[str, object]:
        """For `status` and metrics: `problem`, counts of files and of bytes."""

    async def durable(self) -> None:
        """Return when all that was recorded so far is durable. Raises `DiskFull`. Safe to cancel."""
