"""The side of a subscription that is supplied: what pull streams bring, when they may, and who wants it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import pyarrow as pa

from penstock.change import Change
from penstock.clock import Clock
from penstock.contract.actions import Backlog
from penstock.errors import InternalError, SubscriptionFailed
from penstock.reservoir import figures
from penstock.reservoir.batch import Batch
from penstock.reservoir.budget import Share
from penstock.reservoir.consumer import Consumer
from penstock.reservoir.holdings import Holdings
from penstock.reservoir.intake import Intake
from penstock.reservoir.ports import NotPulling, Pulling
from penstock.reservoir.roster import Roster

Failure: TypeAlias = SubscriptionFailed | InternalError
"""Why a subscription is not pulled any more, until the next `open`."""


class Supply:
    """Satisfies `ports.ChunkSink`. Every method but the `wait_` ones is a plain decision at the clock's time.

    `pulling` is asked about the pull streams; whoever pulls puts itself there.
    """

    def __init__(  # noqa: PLR0913 - the parts of a subscription, composed in one place
        self,
        *,
        holdings: Holdings,
        intake: Intake,
        roster: Roster,
        change: Change,
        share: Share,
        clock: Clock,
        prefetch: bool,
    ) -> None:
        self.prefetch = prefetch
        self.failed: Failure | None = None
        self.pulling: Pulling = NotPulling()
        self._holdings = holdings
        self._intake = intake
        self._roster = roster
        self._change = change
        self._share = share
        self._clock = clock

    def receive(self, rows: pa.RecordBatch, ack_ids: pa.Array, now: float) -> None:
        """Take one decoded chunk."""
        first = not self._holdings.queue.rows
        if self.pulling.ordered is not None:
            self._holdings.ordered = self.pulling.ordered
        self._holdings.exactly_once = self.pulling.exactly_once
        self._holdings.receive(rows, ack_ids, now, late_s=self._clock() - now)
        if first:
            self._change.tell()

    def give_back_unread(self, ack_ids: Sequence[pa.Array]) -> None:
        """Messages that a pull stream brought too late to be taken."""
        self._holdings.give_back_unread(ack_ids)

    @property
    def paused(self) -> bool:
        """Whether pulling must stand still; `pause_reason` says why."""
        return self._intake.paused

    @property
    def pause_reason(self) -> str | None:
        """See `Intake`."""
        return self._intake.pause_reason

    @property
    def saturated(self) -> bool:
        """Whether the service sends nothing more before something is acknowledged."""
        return self._intake.saturated(sum(batch.bytes for batch in self.batches), self.pulling.outstanding_limit_bytes)

    async def wait_resumed(self) -> None:
        """Return when `paused` is False. Safe to cancel."""
        while self.pause_reason is not None:
            await self._change.wait()
        self._intake.look_at_once()

    async def wait_rows(self) -> None:
        """Return when an unsealed row is there, or none may come (failed, draining). Safe to cancel."""
        while not self._holdings.queue.rows and self.failed is None and not self.draining:
            await self._change.wait()

    async def wait_wanted(self, *, wanted: bool) -> None:
        """Return when `self.wanted` is `wanted`. Safe to cancel."""
        while self.wanted is not wanted:
            await self._change.wait()

    @property
    def wanted(self) -> bool:
        """Whether anybody wants messages: a consumer with contact, or `prefetch`."""
        if self.draining or self.failed is not None:
            return False
        return self.prefetch or self._roster.wants

    def fail(self, error: Failure) -> None:
        """The service said no for good, or we have a defect; the next call of a driver hears it."""
        self.failed = error
        if isinstance(error, SubscriptionFailed):  # a defect of ours says nothing of the service
            self._holdings.refuse()
        self._change.tell()

    def try_again(self) -> None:
        """Pull anew after a failure, unless a reader is there to hear of it first."""
        if self.failed is None or self._roster.in_contact:
            return
        self.failed = None
        self._holdings.ask_again(self._clock())
        self._change.tell()

    def stopped_pulling(self) -> None:
        """Called when no pull stream is open any more, so that what arrived last is not kept for nobody."""
        if self.draining:
            self._holdings.release_unsealed()
        self._settle_unwanted()

    # --- what it looks like now ---------------------------------------------------------------------------------

    @property
    def consumers(self) -> dict[str, Consumer]:
        """All consumers by ID."""
        return self._roster.by_id

    @property
    def batches(self) -> list[Batch]:
        """All batches held."""
        return self._roster.batches

    def backlog(self, consumer: Consumer | None = None) -> Backlog:
        """What waits unsealed. Raises a `Failure`."""
        if consumer is not None:
            self._check_failed()
        queue, now = self._holdings.queue, self._clock()
        oldest_received, oldest_publish = queue.oldest_received_at(), queue.oldest_publish_us()
        open_since = self.pulling.streams_open_since
        return Backlog(
            rows=queue.rows,
            bytes=queue.bytes,
            oldest_publish_time=None if oldest_publish is None else figures.rfc3339(oldest_publish),
            oldest_age_s=None if oldest_received is None else now - oldest_received,
            paused=self.pause_reason is not None or self.saturated,
            draining=self.draining,
            streams_open_s=None if open_since is None else now - open_since,
            trouble=self.pulling.trouble,
        )

    @property
    def draining(self) -> bool:
        """Whether the daemon is about to stop."""
        return self._intake.draining

    @property
    def used_bytes(self) -> int:
        """What it claims of the budget."""
        return self._share.used_bytes

    @property
    def share_bytes(self) -> int:
        """Its part of the budget."""
        return self._intake.share_bytes

    @property
    def needed(self) -> bool:
        """Whether somebody waits for it: `prefetch`, or a consumer with contact."""
        return self.prefetch or self._roster.in_contact

    # --- inside -------------------------------------------------------------------------------------------------

    def _settle_unwanted(self) -> None:
        if self.needed:
            return
        self._share.active = False
        self._holdings.release_unsealed()

    def _check_failed(self) -> None:
        if self.failed is not None:
            raise self.failed.with_traceback(None)  # else each call makes the traceback longer
