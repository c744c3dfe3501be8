"""The way in: one subscription from Pub/Sub to the reservoir, and its acknowledgements back."""

from __future__ import annotations

import asyncio
import random

from penstock.clock import Clock
from penstock.errors import SubscriptionFailed
from penstock.pubsub import AckQueue, PubSubChannel, Puller, SubscriptionInfo
from penstock.reservoir import Reservoir, Subscription
from penstock.settings import PubSubSettings


class Ingest:
    """Pulls while somebody wants messages, and sends acks for as long as the daemon runs. `task` is its `run`."""

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
        self.subscription = Subscription(
            info.name,
            node=reservoir.node,
            settings=reservoir.settings,
            budget=reservoir.budget,
            acks=self.acks,
            clock=clock,
            # Unknown (no permission to look) counts as ordered: that costs a hash per row and breaks nothing.
            ordered=info.ordering is not False,
            deadline_s=settings.ack_deadline_s,
            max_buffer_age_s=settings.max_buffer_age_s,
            prefetch=prefetch,
        )
        reservoir.add(self.subscription)
        self.puller = Puller(
            channel,
            info.name,
            settings,
            self.subscription,
            max_outstanding_bytes=self.subscription.share_bytes // settings.max_streams,
            clock=clock,
            rng=random.Random(),  # noqa: S311 - jitter, not secrets
        )
        self.subscription.streams_open_since = lambda: self.puller.statistics().all_open_since

    async def run(self) -> None:
        """Run until cancelled. Cancellation leaves unsent acks unsent: a drain comes first."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.acks.run())
            tasks.create_task(self._pull())

    async def _pull(self) -> None:
        while True:
            await self.subscription.wait_wanted(wanted=True)
            try:
                await self._pull_while_wanted()
            except* SubscriptionFailed as failures:
                self.subscription.fail(_first(failures))
            finally:
                self.subscription.stopped_pulling()

    async def _pull_while_wanted(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            pulling = tasks.create_task(self.puller.run())
            await self.subscription.wait_wanted(wanted=False)
            pulling.cancel()

    def statistics(self) -> dict[str, object]:
        """Figures of both directions, for `status` and `/metrics`."""
        return {
            **self.subscription.statistics(),
            "pull": self.puller.statistics().figures(),
            "acks": self.acks.statistics().figures(),
        }


def _first(failures: BaseExceptionGroup[SubscriptionFailed]) -> SubscriptionFailed:
    """The error itself, out of however many task groups it came through."""
    error: BaseException = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, SubscriptionFailed)
    return error
