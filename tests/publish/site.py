"""A real daemon in this process beside the embedded emulator, and Google's Python client to read back with."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest
from google.cloud import pubsub_v1
from google.pubsub_v1.types import PubsubMessage

from penstock.client import NodeClient
from penstock.clock import boottime
from penstock.contract import PROTOCOL_VERSION
from penstock.contract.actions import CreateSubscription
from penstock.contract.publishing import PutReply, PutRequest
from penstock.emulator import Emulator
from penstock.emulator.faults import Faults
from penstock.emulator.refusal import invalid
from penstock.flight import Actions, FlightServer
from penstock.publish import Outlet
from penstock.pubsub import Control, PubSubChannel
from penstock.reservoir import Reservoir, Subscription
from penstock.settings import PublishSettings, PubSubSettings, ReservoirSettings

PROJECT = "projects/p"
TOPIC = f"{PROJECT}/topics/orders"
READER = f"{PROJECT}/subscriptions/orders-reader"
WAIT_S = 20.0


@dataclass
class Site:
    """Emulator and daemon on one loop in a thread of its own."""

    emulator: Emulator
    outlet: Outlet
    node: NodeClient
    loop: asyncio.AbstractEventLoop

    @property
    def faults(self) -> Faults:
        return self.emulator.faults

    def on_loop(self, act: Callable[[], Any]) -> Any:
        async def acting() -> Any:
            return act()

        return asyncio.run_coroutine_threadsafe(acting(), self.loop).result(WAIT_S)

    def fail(self, code: str, times: int = 1) -> None:
        self.on_loop(lambda: self.faults.fail("Publish", code, times))

    def watch_publish(self, refused_key: str | None = None) -> list[set[str]]:
        """The ordering keys of each PublishRequest from now on; those with `refused_key` are INVALID_ARGUMENT."""
        keys_of_requests: list[set[str]] = []
        publish = self.emulator.broker.publish

        def watching(topic: str, messages: pa.StructArray, request_bytes: int) -> Any:
            keys = set(messages.field("ordering_key").to_pylist())
            keys_of_requests.append(keys)
            if refused_key in keys:
                raise invalid("a key that was to be refused")
            return publish(topic, messages, request_bytes)

        self.emulator.broker.publish = watching  # type: ignore[method-assign]
        return keys_of_requests

    def topic(self, name: str = TOPIC, *, ordering: bool = False) -> str:
        """Make a topic and a subscription to read it; the name of that."""
        reader = name.replace("/topics/", "/subscriptions/") + "-reader"
        with pubsub_v1.PublisherClient() as publisher:
            publisher.create_topic(name=name)
        with pubsub_v1.SubscriberClient() as subscriber:
            subscriber.create_subscription(request={"name": reader, "topic": name, "enable_message_ordering": ordering})
        return reader

    def delete(self, name: str = TOPIC) -> None:
        with pubsub_v1.PublisherClient() as publisher:
            publisher.delete_topic(topic=name)

    def read(self, count: int, reader: str = READER) -> list[PubsubMessage]:
        """So many messages with Google's own client, and not one more."""
        found: list[PubsubMessage] = []
        with pubsub_v1.SubscriberClient() as subscriber:
            while len(found) < count:
                got = subscriber.pull(subscription=reader, max_messages=1000, timeout=WAIT_S).received_messages
                found += [received.message for received in got]
                subscriber.acknowledge(subscription=reader, ack_ids=[received.ack_id for received in got])
        assert len(found) == count
        assert self.published(reader) == count
        return found

    def published(self, reader: str = READER) -> int:
        """Messages that ever came to the reader's subscription."""
        figures: dict[str, int] = self.on_loop(lambda: self.faults.statistics(reader))
        return figures["published"]

    def put(self, *batches: pa.RecordBatch, **options: Any) -> PutReply:
        request = PutRequest(v=PROTOCOL_VERSION, **{"topic": TOPIC, **options})
        return self.node.put(request, batches[0].schema, batches)


def rows(count: int, **columns: Any) -> pa.RecordBatch:
    """Rows of numbered data, and whatever else is said."""
    data = pa.array([str(number).encode() for number in range(count)], pa.binary())
    return pa.RecordBatch.from_pydict({"data": data, **columns})


class _Opener:
    """What `status` asks; nothing is pulled here."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet

    async def subscription(self, name: str, create: CreateSubscription | None) -> Subscription:
        raise NotImplementedError

    def state(self) -> str:
        return "serving"

    def figures(self) -> dict[str, dict[str, object]]:
        return {}

    def publishing(self) -> dict[str, object]:
        return self._outlet.statistics()

    def drain(self) -> None:
        raise NotImplementedError


@contextlib.contextmanager
def daemon(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[Site]:
    started: Future[Site] = Future()
    over: Future[None] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(_run(monkeypatch, PublishSettings(**settings), started, over)))
    thread.start()
    try:
        yield started.result(WAIT_S)
    finally:
        over.set_result(None)
        thread.join(WAIT_S)
        assert not thread.is_alive()


async def _run(
    monkeypatch: pytest.MonkeyPatch, settings: PublishSettings, started: Future[Site], over: Future[None]
) -> None:
    async with Emulator() as emulator:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", emulator.address)
        async with (
            PubSubChannel(PubSubSettings()) as channel,
            Control(channel) as control,
            asyncio.TaskGroup() as tasks,
        ):
            outlet = Outlet(channel, control, settings, clock=boottime, spawn=tasks.create_task)
            reservoir = Reservoir(ReservoirSettings(), boottime, site="here")
            flight = FlightServer(
                "grpc://127.0.0.1:0",
                loop=asyncio.get_running_loop(),
                reservoir=reservoir,
                actions=Actions(reservoir, _Opener(outlet), "test"),
                clock=boottime,
                read_idle_s=30.0,
                outlet=outlet,
            )
            with NodeClient(f"127.0.0.1:{flight.port}") as node:
                started.set_result(Site(emulator, outlet, node, asyncio.get_running_loop()))
                await asyncio.wrap_future(over)
            async with asyncio.timeout(WAIT_S):
                while outlet.figures()["writes"]:  # noqa: ASYNC110 - what is waited for has no event
                    await asyncio.sleep(0.01)
            assert outlet.figures() == {"writes": 0, "held_bytes": 0, "requests": 0}
            await asyncio.to_thread(flight.stop)
