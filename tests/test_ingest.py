"""One subscription on its way in, for real: an emulator, pull streams, the reservoir, acknowledgements."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest
from google.pubsub_v1.types import DeleteSubscriptionRequest, PublishRequest, PubsubMessage, Topic

from penstock.clock import boottime
from penstock.contract import Reader
from penstock.contract.actions import CreateSubscription
from penstock.emulator import Emulator
from penstock.errors import InternalError
from penstock.ingest import Ingest
from penstock.pubsub import Control, PubSubChannel, SubscriptionInfo, pull
from penstock.reservoir import Reservoir
from penstock.reservoir.consumer import Consumer
from penstock.service import Service
from penstock.settings import PubSubSettings, ReservoirSettings, Settings

TOPIC = "projects/p/topics/orders"
NAME = "projects/p/subscriptions/orders"
OTHER = "projects/p/subscriptions/other"


async def until(holds: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


@dataclass
class Node:
    """A reservoir with as many ingests as a test wants, and the emulator that they pull from."""

    emulator: Emulator
    channel: PubSubChannel
    control: Control
    reservoir: Reservoir
    settings: PubSubSettings
    tasks: asyncio.TaskGroup
    running: list[asyncio.Task[None]]

    async def ingest(self, name: str = NAME, *, exactly_once: bool = False, described: bool = True) -> Ingest:
        wanted = CreateSubscription(topic=TOPIC, ack_deadline_seconds=10, enable_exactly_once_delivery=exactly_once)
        info = await self.control.create(name, wanted)
        ingest = Ingest(
            info if described else SubscriptionInfo(name),
            channel=self.channel,
            reservoir=self.reservoir,
            settings=self.settings,
            clock=boottime,
            prefetch=False,
        )
        ingest.task = self.tasks.create_task(ingest.run())
        self.running.append(ingest.task)
        return ingest

    def open(self, ingest: Ingest, generation: int = 1) -> Consumer:
        reader = Reader(generation, "r")
        name = f"consumer of {ingest.subscription.name}"
        return self.reservoir.open(ingest.subscription, name, reader, after=0, share=False)

    async def publish(self, count: int, data_bytes: int = 10) -> None:
        request = PublishRequest(topic=TOPIC, messages=[PubsubMessage(data=b"x" * data_bytes)] * count)
        await self.channel.unary("Publisher", "Publish")(PublishRequest.serialize(request))

    async def tick(self) -> None:
        while True:
            self.reservoir.tick()
            await asyncio.sleep(0.02)


@pytest.fixture
async def node(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    settings = PubSubSettings(jitter_ms=0, min_streams=1, max_streams=2)
    async with Emulator() as emulator:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", emulator.address)
        async with PubSubChannel(settings) as channel, Control(channel) as control:
            await channel.unary("Publisher", "CreateTopic")(Topic.serialize(Topic(name=TOPIC)))
            reservoir = Reservoir(ReservoirSettings(memory_limit_mb=64), boottime)
            async with asyncio.TaskGroup() as tasks:
                node = Node(emulator, channel, control, reservoir, settings, tasks, [])
                node.running.append(tasks.create_task(node.tick()))
                yield node
                accounts = [subscription.accounting() for subscription in reservoir.subscriptions.values()]
                for task in node.running:
                    task.cancel()
                assert not any(accounting.unaccounted for accounting in accounts), accounts


@pytest.mark.parametrize("described", [True, False])
async def test_an_exactly_once_subscription_hears_at_once_what_was_received(node: Node, *, described: bool) -> None:
    ingest = await node.ingest(exactly_once=True, described=described)
    node.open(ingest)
    await node.publish(100)
    await until(lambda: node.emulator.faults.statistics(NAME)["extended"] == 100)
    assert ingest.subscription.statistics()["buffered"] == 100
    await until(lambda: ingest.acks.statistics().extended == 100)  # the answer comes after the server's own count


async def test_an_ordinary_subscription_is_asked_for_no_receipts(node: Node) -> None:
    ingest = await node.ingest()
    node.open(ingest)
    await node.publish(100)
    await until(lambda: ingest.subscription.statistics()["buffered"] == 100)
    await asyncio.sleep(0.2)
    assert ingest.acks.statistics().requests == 0


async def test_a_subscription_that_was_deleted_and_made_anew_is_taken_as_it_is_now(node: Node) -> None:
    ingest = await node.ingest()
    node.open(ingest)
    await until(lambda: ingest.streams_open_since is not None)
    assert not ingest.ordered
    delete = node.channel.unary("Subscriber", "DeleteSubscription")
    await delete(DeleteSubscriptionRequest.serialize(DeleteSubscriptionRequest(subscription=NAME)))
    await until(lambda: ingest.subscription.failed is not None)
    wanted = CreateSubscription(topic=TOPIC, ack_deadline_seconds=10, enable_message_ordering=True)
    ingest.described(await node.control.create(NAME, wanted))
    assert ingest.ordered
    ingest.described(SubscriptionInfo(NAME))
    assert ingest.ordered, "who may not look learns nothing"
    consumer = node.open(ingest, generation=2)
    await node.publish(10)
    await until(lambda: ingest.subscription.backlog().rows == 10)
    ingest.subscription.seal(consumer, 1, max_rows=None, max_bytes=None)
    assert consumer.batches[1].ordered


async def test_a_pull_stream_gets_its_part_of_the_share_of_the_moment_it_is_opened(node: Node) -> None:
    limit_bytes = node.reservoir.budget.limit_bytes
    ingest, other = await node.ingest(), await node.ingest(OTHER)
    node.open(ingest)
    await until(lambda: ingest.puller.statistics().outstanding_bytes == limit_bytes // 2)
    node.open(other)
    await until(lambda: other.puller.statistics().outstanding_bytes == limit_bytes // 4)
    assert ingest.subscription.pulling.outstanding_limit_bytes == limit_bytes // 2, "fixed while a stream is open"
    node.emulator.faults.cut_streams(NAME)
    await until(lambda: ingest.subscription.pulling.outstanding_limit_bytes == limit_bytes // 4)


async def test_a_pull_stream_whose_share_has_grown_makes_room_for_one_that_may_bring_more(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "SCALE_INTERVAL_S", 0.05)
    limit_bytes = node.reservoir.budget.limit_bytes
    ingest, other = await node.ingest(), await node.ingest(OTHER)
    consumer = node.open(other)
    node.open(ingest)
    await until(lambda: ingest.puller.statistics().outstanding_bytes == limit_bytes // 4)
    await node.publish(10)
    await until(lambda: ingest.subscription.backlog().rows == 10)
    other.subscription.close(consumer)
    await until(lambda: ingest.puller.statistics().outstanding_bytes == limit_bytes // 2)
    await until(lambda: ingest.puller.statistics().streams == 1)
    await node.publish(10)
    await until(lambda: ingest.subscription.backlog().rows == 20)


async def test_a_defect_on_one_subscription_fails_that_one_only_and_the_next_open_tries_again(
    node: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest, other = await node.ingest(), await node.ingest(OTHER)
    service = Service(Settings())
    service._ingests = {NAME: ingest, OTHER: other}
    receive = ingest.subscription.receive

    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError("a defect of ours")

    monkeypatch.setattr(ingest.subscription, "receive", broken)
    consumer = node.open(ingest)
    node.open(other)
    await node.publish(10)
    await until(lambda: ingest.subscription.failed is not None)
    with pytest.raises(InternalError, match=f"pulling {NAME} failed: ZeroDivisionError.*a defect of ours"):
        ingest.subscription.alive(consumer)
    assert any("a defect of ours" in reason for reason in service.not_ready())
    assert "Traceback" in "".join(capsys.readouterr())
    await until(lambda: other.subscription.statistics()["buffered"] == 10)
    monkeypatch.setattr(ingest.subscription, "receive", receive)
    node.open(ingest, generation=2)
    await node.publish(10)
    await until(lambda: ingest.subscription.statistics()["buffered"] == 10)
    assert not ingest.task.done()
