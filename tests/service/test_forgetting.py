"""Subscriptions that nobody uses any more: they go, and come back as if they were new."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable

import pytest
from google.pubsub_v1.types import PublishRequest, PubsubMessage, Subscription, Topic

from penstock import errors, service
from penstock.contract import Reader
from penstock.contract.actions import CreateSubscription, FinishedEpoch
from penstock.emulator import Emulator
from penstock.pubsub import PubSubChannel
from penstock.service import Service
from penstock.settings import PubSubSettings, Settings

TOPIC = "projects/p/topics/orders"
NAME = "projects/p/subscriptions/orders"
CREATE = CreateSubscription(topic=TOPIC)


async def until(holds: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


@pytest.fixture
def settings() -> Settings:
    return Settings(
        listen="grpc://127.0.0.1:0",
        http="127.0.0.1:0",
        subscriptions=(NAME, "projects/p/subscriptions/*"),
        pubsub=PubSubSettings(jitter_ms=0, max_streams=1),
    )


@pytest.fixture
async def emulator(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Emulator]:
    async with Emulator() as emulator:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", emulator.address)
        async with PubSubChannel(PubSubSettings()) as channel:
            await channel.unary("Publisher", "CreateTopic")(Topic.serialize(Topic(name=TOPIC)))
            subscription = Subscription(name=NAME, topic=TOPIC)
            await channel.unary("Subscriber", "CreateSubscription")(Subscription.serialize(subscription))
            request = PublishRequest(topic=TOPIC, messages=[PubsubMessage(data=b"x")] * 10)
            await channel.unary("Publisher", "Publish")(PublishRequest.serialize(request))
            yield emulator


@pytest.fixture
async def serving(emulator: Emulator, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    assert emulator.address
    monkeypatch.setattr(service, "IDLE_S", 0.05)
    monkeypatch.setattr(service, "FORGET_S", 0.2)
    serving = Service(settings)
    running = asyncio.ensure_future(serving.run())
    await until(lambda: not serving.not_ready())
    yield serving
    accounts = [subscription.accounting() for subscription in serving.reservoir.subscriptions.values()]
    serving.drain()
    assert await asyncio.wait_for(running, 20) == 0
    assert not any(accounting.unaccounted for accounting in accounts), accounts


async def test_a_subscription_that_nobody_uses_is_forgotten_with_its_share_and_its_task(serving: Service) -> None:
    opened = await serving.subscription(NAME, None)
    reader = Reader(1, "r")
    consumer = serving.reservoir.open(opened, "c", reader, after=0, share=False)
    await until(lambda: opened.statistics()["buffered"] == 10)
    batch = opened.seal(consumer, 1, max_rows=None, max_bytes=None).batch
    assert batch
    await asyncio.sleep(0.5)
    assert NAME in serving.figures(), "its consumer still has it"
    task = serving._ingests[NAME].task
    opened.commit(consumer, [FinishedEpoch(epoch=1, nodes={serving.reservoir.node: batch})], frozenset(), contact=True)
    opened.close(consumer)
    gc.collect()
    await until(lambda: NAME not in serving.figures())
    await until(task.cancelled)
    assert opened.ledger.acknowledged == 10
    assert not serving.reservoir.subscriptions
    assert not serving.reservoir.budget._shares
    again = await serving.subscription(NAME, None)
    assert again is not opened
    serving.reservoir.open(again, "c", reader, after=1, share=False)
    await until(lambda: again.pulling.streams_open_since is not None)


async def test_a_subscription_is_never_forgotten_while_it_is_being_opened(
    serving: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await serving.subscription(NAME, None)
    describe, looking, go_on = serving._control.create, asyncio.Event(), asyncio.Event()

    async def slow(name: str, wanted: CreateSubscription) -> object:
        looking.set()
        await go_on.wait()
        return await describe(name, wanted)

    monkeypatch.setattr(serving._control, "create", slow)

    async def open_it() -> str:
        opened = await serving.subscription(NAME, CREATE)
        serving.reservoir.open(opened, "c", Reader(1, "r"), after=0, share=False)
        return opened.name

    opening = asyncio.ensure_future(open_it())
    await looking.wait()
    await asyncio.sleep(0.5)  # long enough to be forgotten
    go_on.set()
    name = await opening
    await asyncio.sleep(0.3)
    assert name in serving.figures()
    assert serving._ingests[name].subscription is serving.reservoir.subscriptions[name]
    assert serving.reservoir.subscriptions[name].consumers


async def test_names_that_cannot_be_opened_leave_nothing_behind(serving: Service) -> None:
    for number in range(5):
        with pytest.raises(errors.SubscriptionFailed):
            await serving.subscription(f"projects/p/subscriptions/missing-{number}", None)
    gc.collect()
    assert not serving._opening
    assert not serving.figures()


class TestPrefetch:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"prefetch": True})

    async def test_a_prefetched_subscription_stays(self, serving: Service) -> None:
        await until(lambda: NAME in serving.figures())
        await asyncio.sleep(0.5)
        assert NAME in serving.figures()
