"""The way in: one subscription from Pub/Sub to the reservoir, and its acknowledgements back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

import pyarrow as pa

from penstock.clock import Clock
from penstock.errors import InternalError, SubscriptionFailed
from penstock.pubsub import AckQueue, Backoff, DeadLetterQueue, PubSubChannel, Puller, SubscriptionInfo
from penstock.reservoir import AckOutcome, Reservoir, Subscription, durably
from penstock.settings import PubSubSettings
from penstock.telemetry import events

Failed = TypeVar("Failed", bound=Exception)

LEAVE_S = 1.0
"""How long streams may take to end by themselves once nobody wants more. The embedded emulator and Google's fake need
about a millisecond; what a stream that is cut had on its way is nobody's until its deadline."""


class Ingest:
    """Pulls while somebody wants messages, and sends acks for as long as the daemon runs.

    Satisfies `reservoir.ports.AckSink` and `Pulling` for its subscription. `task` is its `run`.
    """

    task: asyncio.Task[None]

    def __init__(
        self,
        info: SubscriptionInfo,
        *,
        channel: PubSubChannel,
        reservoir: Reservoir,
        settings: PubSubSettings,
        clock: Clock,
        prefetch: bool,
    ) -> None:
        self.acks = AckQueue(channel, info.name, deadline_s=settings.ack_deadline_s, clock=clock)
        self.dead_letters = _dead_letters(channel, info.name, settings, clock)
        self.subscription = Subscription(
            info.name,
            node=reservoir.node,
            settings=reservoir.settings,
            budget=reservoir.budget,
            acks=durably(self, reservoir.store),
            clock=clock,
            ordered=_ordered(info),
            deadline_s=settings.ack_deadline_s,
            max_buffer_age_s=settings.max_buffer_age_s,
            prefetch=prefetch,
            dead_letters=self.dead_letters,
            max_delivery_attempts=settings.max_delivery_attempts or 0,
            store=reservoir.store,
            spill=reservoir.spill,
        )
        reservoir.add(self.subscription)
        self.puller = Puller(
            channel,
            info.name,
            settings,
            self.subscription,
            # 0 would mean no limit.
            max_outstanding_bytes=lambda: max(self._room_bytes // settings.max_streams, 1),
            clock=clock,
            rng=random.Random(),  # noqa: S311 - jitter, not secrets
            release=self.subscription.give_back_unread,
        )
        self.subscription.pulling = self
        self._gates = [self.puller.gate, self.acks.ack_gate, self.acks.lease_gate]
        if self.dead_letters is not None:
            self._gates.append(self.dead_letters.gate)
        self._info = info
        self._stopped = asyncio.Event()
        self._stopped.set()
        self._held_releases: list[tuple[Sequence[pa.Array], Callable[[], None]]] = []

    @property
    def _room_bytes(self) -> int:
        """What may be outstanding: the share, and what left it for temporary files."""
        return self.subscription.share_bytes + self.subscription.spilled_bytes

    @property
    def unused(self) -> bool:
        """Whether nothing is held, wanted or on its way, so that it may end."""
        return self.subscription.unused and not self._pulling and not self.acks.pending_ids

    @property
    def _pulling(self) -> bool:
        return not self._stopped.is_set()

    # --- the subscription's Pulling -----------------------------------------------------------------------------

    @property
    def streams_open_since(self) -> float | None:
        """Since when all pull streams are open."""
        return self.puller.statistics().all_open_since

    @property
    def outstanding_limit_bytes(self) -> int:
        """The flow control of those that are open, together."""
        return self.puller.statistics().outstanding_bytes

    @property
    def ordered(self) -> bool:
        """What was said last counts, on a pull stream or to whoever looked: the subscription may be another one now."""
        said = self.puller.properties
        return _ordered(self._info) if said is None else said.ordering

    @property
    def exactly_once(self) -> bool:
        """As `ordered`. Unknown counts as not."""
        said = self.puller.properties
        return self._info.exactly_once is True if said is None else said.exactly_once

    @property
    def trouble(self) -> str | None:
        """What the service has refused for a while, for the user of a query."""
        troubles = [trouble for gate in self._gates if (trouble := gate.trouble()) is not None]
        return "; ".join(troubles) or None

    def described(self, info: SubscriptionInfo) -> None:
        """Somebody looked again, as after a failure: it may have been deleted and made anew with other properties."""
        if info.ordering is not None:  # else nobody may look, and what a stream said is all there is
            self._info, self.puller.properties = info, None

    # --- the subscription's AckSink -----------------------------------------------------------------------------

    def acknowledge(self, ack_ids: Sequence[pa.Array], settled: Callable[[AckOutcome], None]) -> None:
        """See `AckQueue`."""
        self.acks.acknowledge(ack_ids, settled)

    def extend(self, ack_ids: Sequence[pa.Array], settled: Callable[[bool], None]) -> None:
        """See `AckQueue`."""
        self.acks.extend(ack_ids, settled)

    def release(self, ack_ids: Sequence[pa.Array], settled: Callable[[], None]) -> None:
        """Give back, but not into streams that are about to close.

        The service would deliver the messages there again at once, and they would be nobody's until their deadline.
        """
        if not self._pulling:
            self.acks.release(ack_ids, settled)
            return
        self._held_releases.append((ack_ids, settled))
        # Wanted or not shows when the call that releases is over: a new consumer may be about to take this one's place.
        asyncio.get_running_loop().call_soon(self._release_while_wanted)

    def _release_while_wanted(self) -> None:
        if self.subscription.wanted or not self._pulling:
            held, self._held_releases = self._held_releases, []
            for ack_ids, settled in held:
                self.acks.release(ack_ids, settled)

    async def stopped_pulling(self) -> None:
        """Return when no stream is open. Safe to cancel."""
        await self._stopped.wait()

    # --- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until cancelled. Cancellation leaves unsent acks unsent: a drain comes first."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.acks.run())
            tasks.create_task(self._pull())
            if self.dead_letters is not None:
                tasks.create_task(self._bury(self.dead_letters))

    async def _bury(self, dead_letters: DeadLetterQueue) -> None:
        backoff = Backoff(random.Random())  # noqa: S311 - jitter, not secrets
        while True:
            try:
                await dead_letters.run()
            except Exception as defect:  # noqa: BLE001
                # Supervision: a defect met on a dead letter must not take pulling and acks with it; the letter waits.
                events.IngestFailed.of(self.subscription.name, "dead letters", defect).emit()
                await asyncio.sleep(backoff.next_s())

    async def _pull(self) -> None:
        while True:
            await self.subscription.wait_wanted(wanted=True)
            try:
                await self._pull_while_wanted()
            except* SubscriptionFailed as failures:
                self.subscription.fail(_first(failures))
            except* Exception as defects:  # noqa: BLE001
                # Supervision: a defect met on one subscription must not take the others and their batches with it.
                self._fail(defects)
            finally:
                self.subscription.stopped_pulling()

    async def _pull_while_wanted(self) -> None:
        self._stopped.clear()
        try:
            async with asyncio.TaskGroup() as tasks:
                pulling = tasks.create_task(self.puller.run())
                await self.subscription.wait_wanted(wanted=False)
                await self.puller.leave(LEAVE_S)
                pulling.cancel()
        finally:
            self._stopped.set()
            self._release_while_wanted()

    def _fail(self, defects: ExceptionGroup[Exception]) -> None:
        events.IngestFailed.of(self.subscription.name, "pull", defects).emit()
        self.subscription.fail(
            InternalError(
                f"pulling {self.subscription.name} failed: {_first(defects)!r}; the daemon's log has the traceback. "
                "The next open tries again"
            )
        )

    def statistics(self) -> dict[str, object]:
        """Figures of both directions, for `status` and `/metrics`."""
        return {
            **self.subscription.statistics(),
            "pull": self.puller.statistics().figures(),
            "acks": self.acks.statistics().figures(),
            "breakers": {gate.kind: gate.figures() for gate in self._gates},
        }


def _ordered(info: SubscriptionInfo) -> bool:
    """Unknown (no permission to look) counts as ordered: that costs a hash per row and breaks nothing."""
    return info.ordering is not False


def _dead_letters(
    channel: PubSubChannel, subscription: str, settings: PubSubSettings, clock: Clock
) -> DeadLetterQueue | None:
    topic, limit = settings.dead_letters_of(subscription), settings.max_delivery_attempts
    if topic is None or limit is None:
        return None
    return DeadLetterQueue(channel, subscription, topic, limit=limit, clock=clock)


def _first(failures: ExceptionGroup[Failed]) -> Failed:
    """The error itself, out of however many task groups it came through."""
    error: Failed | ExceptionGroup[Failed] = failures
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
