"""A daemon without Pub/Sub: the real Flight server and the real reservoir in a thread, fed by the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

import pyarrow as pa
import pyarrow.flight as fl

from penstock.clock import boottime
from penstock.contract import ROWS_SCHEMA
from penstock.contract.actions import CreateSubscription
from penstock.errors import SubscriptionFailed
from penstock.flight import Actions, FlightServer
from penstock.reservoir import AckOutcome, Reservoir, Subscription
from penstock.settings import ReservoirSettings

SUBSCRIPTION = "projects/p/subscriptions/orders"
START_US = 1_700_000_000_000_000
T = TypeVar("T")


@dataclass
class Service:
    """Stands for Pub/Sub: takes note of acks and releases. `hold` leaves acks unconfirmed."""

    acknowledged: list[str] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    hold: bool = False
    waiting: list[tuple[list[str], Callable[[AckOutcome], None]]] = field(default_factory=list)

    def acknowledge(self, ack_ids: Sequence[pa.Array], settled: Callable[[AckOutcome], None]) -> None:
        """Confirm at once, or on `confirm`."""
        self.waiting.append(([value for array in ack_ids for value in array.to_pylist()], settled))
        if not self.hold:
            self.confirm()

    def confirm(self) -> None:
        """Confirm all that waits."""
        waiting, self.waiting = self.waiting, []
        for ids, settled in waiting:
            self.acknowledged += ids
            settled(AckOutcome(len(ids), 0))

    def extend(self, ack_ids: Sequence[pa.Array], settled: Callable[[bool], None]) -> None:
        """Always works."""
        settled(True)

    def release(self, ack_ids: Sequence[pa.Array], settled: Callable[[], None]) -> None:
        """Take note."""
        settled()
        self.released += [value for array in ack_ids for value in array.to_pylist()]


class Daemon:
    """One node. `stop` and `start` are a crash and a restart on the same port, with an empty memory.

    Satisfies `reservoir.Pulling`.
    """

    def __init__(self, site: str = "here", **settings: Any) -> None:
        self.site = site
        self.settings = ReservoirSettings(**settings)
        self.service = Service()
        self.port = 0
        self.calls: list[str] = []
        self.bodies: list[tuple[str, dict[str, Any]]] = []
        self.lose_replies: list[str] = []
        self.before_reply: Callable[[str, bytes], None] = lambda action, reply: None
        self.before_call: Callable[[str], None] = lambda action: None
        self.fail_open: list[Exception] = []
        self.streams_open_since: float | None = None
        self.outstanding_limit_bytes = 0
        self.ordered = False
        self.exactly_once = False
        self.trouble: str | None = None
        self.sent = 0
        self.offset_us = START_US

    @property
    def endpoint(self) -> str:
        """For clients."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        """Serve."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def start(self) -> None:
        """Serve with nothing in memory."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.reservoir = Reservoir(self.settings, boottime, site=self.site)
        self.held = self.on_loop(self._subscription)
        self.flight = _Server(
            f"grpc://127.0.0.1:{self.port}",
            loop=self._loop,
            reservoir=self.reservoir,
            actions=_Actions(self),
            clock=boottime,
            read_idle_s=30.0,
        )
        self.flight.daemon = self
        self.port = self.flight.port
        self._ticking = asyncio.run_coroutine_threadsafe(self._tick(), self._loop)

    def stop(self) -> None:
        """End without a goodbye."""
        unaccounted = self.on_loop(self.held.unaccounted)
        # A crash cuts the calls that wait; this server would wait for them.
        self.on_loop(self.held.drain)
        self.flight.stop()
        self._ticking.cancel()
        self.on_loop(lambda: None)  # one turn, in which the cancelled task ends
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()
        assert unaccounted == 0

    def publish(self, rows: int, *, data_bytes: int = 20) -> list[str]:
        """Messages arrive; their IDs. The ack ID of message `m7` is `ack-m7`."""
        numbers = range(self.sent, self.sent + rows)
        self.sent += rows
        ids = [f"m{number}" for number in numbers]
        batch = pa.RecordBatch.from_pydict(
            {
                "message_id": ids,
                "data": [b"x" * data_bytes] * rows,
                "attributes": [[("n", str(number))] for number in numbers],
                "publish_time": [self.offset_us + number for number in numbers],
                "ordering_key": [None] * rows,
                "delivery_attempt": [None] * rows,
            },
            schema=ROWS_SCHEMA,
        )
        acks = pa.array([f"ack-{message}" for message in ids])
        self.on_loop(lambda: self.held.receive(batch, acks, boottime()))
        return ids

    def acknowledged(self) -> list[str]:
        """IDs of messages acknowledged, in the order of their acks."""
        return [ack.removeprefix("ack-") for ack in self.service.acknowledged]

    def on_loop(self, act: Callable[[], T]) -> T:
        """Run in the daemon's thread."""

        async def acting() -> T:
            return act()

        return asyncio.run_coroutine_threadsafe(acting(), self._loop).result(10)

    def _subscription(self) -> Subscription:
        made = Subscription(
            SUBSCRIPTION,
            node=self.reservoir.node,
            settings=self.settings,
            budget=self.reservoir.budget,
            acks=self.service,
            clock=boottime,
            ordered=False,
            deadline_s=60.0,
            max_buffer_age_s=60.0,
        )
        made.pulling = self
        self.reservoir.add(made)
        return made

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.02)
            self.reservoir.tick()

    # --- flight.Opener ---

    async def subscription(self, name: str, create: CreateSubscription | None) -> Subscription:
        """The one there is."""
        if self.fail_open:
            raise self.fail_open.pop(0)
        if name != SUBSCRIPTION:
            raise SubscriptionFailed(f"{name}: NOT_FOUND", service_code="NOT_FOUND")
        return self.held

    def state(self) -> str:
        """Always."""
        return "serving"

    def figures(self) -> dict[str, dict[str, object]]:
        """As the product's."""
        return {SUBSCRIPTION: self.held.statistics()}

    def publishing(self) -> dict[str, object]:
        """Nothing is."""
        return {}

    def drain(self) -> None:
        """Not in these tests."""


class _Actions(Actions):
    """Notes calls."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__(daemon.reservoir, daemon, "test")
        self._daemon = daemon

    async def call(self, name: str, raw: bytes) -> bytes:
        self._daemon.calls.append(name)
        with contextlib.suppress(ValueError, RecursionError):
            self._daemon.bodies.append((name, json.loads(raw)))
        return await super().call(name, raw)


class _Server(FlightServer):
    """Can act and then lose the reply, and calls the test before and after."""

    daemon: Daemon

    def do_action(self, context: Any, action: Any) -> Any:
        self.daemon.before_call(action.type)
        reply = list(super().do_action(context, action))
        self.daemon.before_reply(action.type, reply[0].body.to_pybytes())
        if action.type in self.daemon.lose_replies:
            self.daemon.lose_replies.remove(action.type)
            raise fl.FlightUnavailableError("Socket closed")
        return iter(reply)
