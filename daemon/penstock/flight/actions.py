"""What each action does. Runs on the loop; every decision is the reservoir's."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from penstock.contract import MAX_NAME_LENGTH, MAX_SLICES, PROTOCOL_VERSION, ROWS_SCHEMA, project
from penstock.contract import actions as bodies
from penstock.contract.body import Body, Request
from penstock.errors import InvalidRequest, OpenAgain
from penstock.reservoir import Reservoir, Subscription
from penstock.telemetry import events

MAX_BACKLOG_WAIT_S = 30.0
"""Longest that `backlog` waits; the action's deadline is a little longer."""

DECISIONS = frozenset({"open", "seal", "exclude", "commit", "release", "bye", "close"})
"""Actions that are answered only when what they decided is durable, where anything is."""

SCHEMA_TEXT = base64.b64encode(ROWS_SCHEMA.serialize().to_pybytes()).decode()


class Opener(Protocol):
    """Finds or starts the subscription that `open` names."""

    async def subscription(self, name: str, create: bodies.CreateSubscription | None) -> Subscription:
        """Raises `SubscriptionNotAllowed`, `SubscriptionFailed`, `InvalidRequest`, `Draining`."""

    def state(self) -> str:
        """What the daemon is doing: `serving` or `draining`."""

    def figures(self) -> dict[str, dict[str, object]]:
        """Subscription → figures, for `status`."""

    def publishing(self) -> dict[str, object]:
        """Figures of what is published, for `status`."""

    def drain(self) -> None:
        """Begin to shut down."""


class Actions:
    """The action of each name in `contract.actions.ACTIONS`."""

    def __init__(self, reservoir: Reservoir, opener: Opener, version: str, advertise: str | None = None) -> None:
        self._advertise = advertise
        self._reservoir = reservoir
        self._opener = opener
        self._version = version
        self._handlers: dict[str, Callable[[Any], Awaitable[Body] | Body]] = {
            name: getattr(self, f"_{name}") for name in bodies.ACTIONS
        }

    async def call(self, name: str, raw: bytes) -> bytes:
        """Parse, do, and answer as JSON. Raises `PenstockError`."""
        action = bodies.ACTIONS.get(name)
        if action is None:
            raise InvalidRequest(f"action {name!r} is unknown; known are {', '.join(bodies.ACTIONS)}")
        request: Request = action.request.read(raw, PROTOCOL_VERSION)
        if isinstance(request, bodies.ReaderRequest):
            _check_names(request)
            self._check_node(request)
        reply = self._handlers[name](request)
        body = reply if isinstance(reply, Body) else await reply
        if name in DECISIONS:
            await self._reservoir.durable()
        return body.to_json()

    def _check_node(self, request: bodies.ReaderRequest) -> None:
        """Nothing is answered in another node's name: neither contact nor `BATCH_GONE` would be true of that one."""
        if request.node not in {None, self._reservoir.node}:
            raise OpenAgain(
                f"this is node {self._reservoir.node}, the call is for {request.node}: the address leads to another "
                "daemon than before, call open"
            )

    async def _open(self, request: bodies.OpenRequest) -> bodies.OpenReply:
        if request.after < 0 or request.reader.generation < 1:
            raise InvalidRequest("open: after >= 0 and a generation >= 1 are needed")
        subscription = await self._opener.subscription(request.subscription, request.create)
        consumer = self._reservoir.open(
            subscription,
            request.consumer,
            request.reader,
            after=request.after,
            share=request.share,
            dedupe=request.dedupe,
        )
        return bodies.OpenReply(
            node=self._reservoir.node,
            incarnation=self._reservoir.incarnation,
            schema=SCHEMA_TEXT,
            held={epoch: batch.id for epoch, batch in consumer.batches.items()},
            generation=consumer.reader.generation,
            excluded=tuple(consumer.excluded),
            heartbeat_s=consumer.heartbeat_s,
            endpoint=self._advertise,
        )

    def _alive(self, request: bodies.AliveRequest) -> Body:
        subscription, consumer = self._reservoir.enter(request.consumer, request.reader)
        subscription.alive(consumer)
        return bodies.Empty()

    def _bye(self, request: bodies.ByeRequest) -> Body:
        subscription, consumer = self._reservoir.enter(request.consumer, request.reader)
        subscription.bye(consumer)
        return bodies.Empty()

    def _close(self, request: bodies.CloseRequest) -> Body:
        subscription, consumer = self._reservoir.enter(request.consumer, request.reader)
        subscription.close(consumer)
        return bodies.Empty()

    async def _backlog(self, request: bodies.BacklogRequest) -> Body:
        subscription, consumer = self._reservoir.enter(request.consumer, request.reader)
        if request.wait_s > 0:
            try:
                async with asyncio.timeout(min(request.wait_s, MAX_BACKLOG_WAIT_S)):
                    await subscription.wait_rows()
            except TimeoutError:
                pass
        return subscription.backlog(consumer)

    def _seal(self, request: bodies.SealRequest) -> Body:
        if request.epoch <= request.after or request.after < 0:
            raise InvalidRequest(f"seal: epoch {request.epoch} must come after {request.after}")
        subscription, consumer = self._reservoir.enter(request.consumer, request.reader)
        return subscription.seal(consumer, request.epoch, max_rows=request.max_rows, max_bytes=request.max_bytes)

    def _plan(self, request: bodies.PlanRequest) -> Body:
        if not 1 <= request.slices <= MAX_SLICES:
            raise InvalidRequest(f"plan: slices must be from 1 to {MAX_SLICES}, not {request.slices}")
        project(request.columns)
        subscription, consumer = self._reservoir.enter(request.consumer, request.reader)
        slices = subscription.plan(
            consumer, request.epoch, request.batch, request.slices, request.columns, PROTOCOL_VERSION
        )
        return bodies.PlanReply(slices=tuple(slices))

    def _assign(self, request: bodies.AssignRequest) -> Body:
        dealt = self._reservoir.assign(request.consumer, request.reader, request.epoch, request.plan, request.slices)
        return bodies.AssignReply(incarnation=self._reservoir.incarnation, claims=dealt.claims, local=dealt.local)

    def _claim(self, request: bodies.ClaimRequest) -> Body:
        placed = self._reservoir.claim(request.plan, request.incarnation, request.partition, request.near)
        return bodies.ClaimReply(slice=placed)

    def _exclude(self, request: bodies.ExcludeRequest) -> Body:
        subscription, consumer = self._reservoir.enter(request.consumer, request.reader)
        if news := subscription.exclude(consumer, request.epoch, request.batches):
            events.BatchesExcluded(
                subscription=subscription.name, consumer=consumer.id, epoch=request.epoch, batches=news
            ).emit()
        return bodies.Empty()

    def _commit(self, request: bodies.CommitRequest) -> Body:
        subscription, consumer = self._reservoir.enter(request.consumer, request.reader)
        states = subscription.commit(consumer, request.epochs, frozenset(request.excluded), contact=not request.task)
        return bodies.CommitReply(epochs=states)

    def _release(self, request: bodies.ReleaseRequest) -> Body:
        subscription, consumer = self._reservoir.enter(request.consumer, request.reader)
        subscription.release(consumer, request.epoch, request.batch)
        return bodies.Empty()

    def _status(self, request: bodies.StatusRequest) -> Body:
        budget = self._reservoir.budget
        return bodies.StatusReply(
            node=self._reservoir.node,
            incarnation=self._reservoir.incarnation,
            version=self._version,
            state=self._opener.state(),
            generation=self._reservoir.generation(request.consumer) if request.consumer else 0,
            subscriptions=self._opener.figures(),
            storage=self._reservoir.storage(),
            spill=self._reservoir.spilled(),
            publishing=self._opener.publishing(),
            memory={"used_bytes": budget.used_bytes, "limit_bytes": budget.limit_bytes},
        )

    def _drain(self, _request: bodies.DrainRequest) -> Body:
        self._opener.drain()
        return bodies.Empty()


def _check_names(request: bodies.ReaderRequest) -> None:
    """Names are kept for as long as the daemon lives, outside the budget: they must be short."""
    for what, name in (("consumer", request.consumer), ("reader", request.reader.uuid)):
        if not 0 < len(name) <= MAX_NAME_LENGTH:
            raise InvalidRequest(f"{what}: 1 to {MAX_NAME_LENGTH} characters are allowed, not {len(name)}")
