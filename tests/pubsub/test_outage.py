"""Calls that go on failing are made rarely, and everything goes on when the service is back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pyarrow as pa
import pytest
from tests.pubsub.conftest import Room, until

from penstock.pubsub.breaker import PROBE_FIRST_S
from penstock.pubsub.gate import Gate
from penstock.reservoir import AckOutcome
from penstock.settings import PubSubSettings
from penstock.telemetry.event import REGISTRY

FOR_EVER = 1_000_000
PROBES = 2
"""So many are waited for: each begins after half a second at least."""


@pytest.fixture
def settings() -> PubSubSettings:
    return PubSubSettings(jitter_ms=0, min_streams=8, max_streams=8)


def calls(room: Room, method: str) -> int:
    made: dict[str, int] = room.emulator.faults.statistics("projects/p/subscriptions/readings")["calls"]
    return made.get(method, 0)


async def bounded(room: Room, gate: Gate, method: str, ask: Callable[[], Awaitable[None]] | None = None) -> None:
    """Wait until the breaker is open and some probes were made; nobody else may have called."""

    async def holds(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await (ask() if ask else asyncio.sleep(0.01))

    await holds(lambda: bool(gate.figures()["open"]))
    before, since = calls(room, method), time.monotonic()
    await holds(lambda: calls(room, method) >= before + PROBES)
    assert calls(room, method) - before <= (time.monotonic() - since) / (PROBE_FIRST_S / 2) + 1


@asynccontextmanager
async def outage(room: Room, method: str) -> AsyncIterator[None]:
    room.emulator.faults.fail(method, "UNAVAILABLE", FOR_EVER, message="the region is away")
    yield
    room.emulator.faults.clear()


async def received(room: Room, count: int) -> None:
    await room.publish(count)
    await until(lambda: room.sink.count == count)


async def test_pull_streams_share_one_probe_and_all_come_back(running: Room) -> None:
    await until(lambda: running.puller.statistics().streams == 8)
    async with outage(running, "StreamingPull"):
        running.emulator.faults.cut_streams()
        await running.publish(100)
        await bounded(running, running.puller.gate, "StreamingPull")
        figures = running.puller.gate.figures()
        assert (figures["code"], figures["error"]) == ("UNAVAILABLE", "the region is away")
    await until(lambda: running.puller.statistics().streams == 8, 20)
    await until(lambda: running.sink.count == 100)
    assert running.puller.gate.figures()["state"] == "closed"


async def test_acks_wait_for_the_service_and_none_is_lost(running: Room) -> None:
    await received(running, 1000)
    outcomes: list[AckOutcome] = []
    async with outage(running, "Acknowledge"):
        for array in pa.chunked_array(running.sink.ack_ids).combine_chunks().tolist():
            running.acks.acknowledge([pa.array([array], pa.string())], outcomes.append)
        await bounded(running, running.acks.ack_gate, "Acknowledge")
        assert not outcomes
    assert await running.acks.flush(20) == 0
    assert sum(outcome.confirmed for outcome in outcomes) == 1000
    assert running.statistics()["remaining"] == 0


async def test_extensions_fail_at_once_in_an_outage_but_one_is_tried_again_and_again(running: Room) -> None:
    await received(running, 1000)
    answers: list[bool] = []

    async def ask() -> None:
        """As the reservoir does, for many chunks."""
        asked = len(answers) + 20
        for _ in range(20):
            running.acks.extend(running.sink.ack_ids, answers.append)
        await until(lambda: len(answers) == asked)

    async with outage(running, "ModifyAckDeadline"):
        await bounded(running, running.acks.lease_gate, "ModifyAckDeadline", ask)
        assert not any(answers)
    async with asyncio.timeout(20):
        while not answers[-1]:
            await ask()
    await ask()
    assert all(answers[-20:])


async def test_acks_go_on_while_leases_cannot_be_extended(running: Room) -> None:
    await received(running, 100)
    outcomes: list[AckOutcome] = []
    async with outage(running, "ModifyAckDeadline"):

        async def ask() -> None:
            running.acks.extend(running.sink.ack_ids, lambda _: None)
            await asyncio.sleep(0.01)

        await bounded(running, running.acks.lease_gate, "ModifyAckDeadline", ask)
        running.acks.acknowledge(running.sink.ack_ids, outcomes.append)
        await until(lambda: outcomes == [AckOutcome(100, 0)])


async def test_an_outage_is_told_when_it_begins_and_when_it_ends(running: Room) -> None:
    labels = {
        "subscription": "projects/p/subscriptions/readings",
        "topic": "",
        "call": "acknowledge",
        "code": "UNAVAILABLE",
    }
    before = REGISTRY.get_sample_value("penstock_breakers_opened_total", labels) or 0.0
    await received(running, 10)
    async with outage(running, "Acknowledge"):
        running.acks.acknowledge(running.sink.ack_ids, lambda _: None)
        gate = running.acks.ack_gate
        await until(lambda: gate.trouble() is not None, 30)
        trouble = gate.trouble()
        assert trouble is not None
        assert "messages cannot be acknowledged" in trouble
        assert "UNAVAILABLE: the region is away" in trouble
    assert await running.acks.flush(20) == 0
    assert running.acks.ack_gate.trouble() is None
    assert REGISTRY.get_sample_value("penstock_breakers_opened_total", labels) == before + 1
