"""Acks are pending until the service confirms them; nothing is forgotten, nothing is sent for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import pyarrow as pa
import pytest
from google.pubsub_v1.types import DeleteSubscriptionRequest
from tests.pubsub.conftest import NAME, Room, until

from penstock.contract.actions import CreateSubscription
from penstock.errors import InvalidRequest, SubscriptionFailed
from penstock.pubsub.errand import Call
from penstock.reservoir import AckOutcome
from penstock.telemetry.event import REGISTRY


async def received(room: Room, count: int) -> None:
    for start in range(0, count, 1000):
        await room.publish(min(1000, count - start))
    await until(lambda: room.sink.count == count)


def defects() -> float:
    return REGISTRY.get_sample_value("penstock_ingest_defects_total", {"subscription": NAME, "part": "acks"}) or 0.0


async def test_every_ack_is_confirmed_and_nothing_remains(running: Room) -> None:
    await received(running, 6000)
    outcomes: list[AckOutcome] = []
    running.acks.acknowledge(running.sink.ack_ids, outcomes.append)
    assert await running.acks.flush(10) == 0
    assert outcomes == [AckOutcome(6000, 0)]
    assert running.statistics()["remaining"] == 0
    assert running.acks.statistics().requests <= 6000 // 2500 + 3


async def test_acks_that_fail_five_times_are_still_delivered(running: Room) -> None:
    await received(running, 10)
    running.emulator.faults.fail("Acknowledge", "UNAVAILABLE", times=5)
    outcomes: list[AckOutcome] = []
    running.acks.acknowledge(running.sink.ack_ids, outcomes.append)
    await until(lambda: bool(outcomes))
    assert outcomes == [AckOutcome(10, 0)]
    assert running.acks.statistics().retries == 5
    assert running.statistics()["remaining"] == 0


async def test_acks_of_a_deleted_subscription_are_lost_and_counted(running: Room) -> None:
    await received(running, 10)
    request = DeleteSubscriptionRequest(subscription=NAME)
    await running.channel.unary("Subscriber", "DeleteSubscription")(DeleteSubscriptionRequest.serialize(request))
    outcomes: list[AckOutcome] = []
    running.acks.acknowledge(running.sink.ack_ids, outcomes.append)
    await until(lambda: bool(outcomes))
    assert outcomes == [AckOutcome(0, 10)]


async def test_a_defect_while_sending_forgets_no_ack(running: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    await received(running, 6000)
    call, left = running.acks._call, [5]

    async def failing(move: Call) -> Any:
        if left[0]:
            left[0] -= 1
            raise ZeroDivisionError("a defect")
        return await call(move)

    monkeypatch.setattr(running.acks, "_call", failing)
    before = defects()
    outcomes: list[AckOutcome] = []
    running.acks.acknowledge(running.sink.ack_ids, outcomes.append)
    assert await running.acks.flush(10) == 0
    assert outcomes == [AckOutcome(6000, 0)]
    assert running.statistics()["remaining"] == 0
    assert defects() - before == 5


async def test_a_defect_of_who_waits_for_an_ack_does_not_reach_the_others_of_its_request(running: Room) -> None:
    await received(running, 30)
    together = pa.concat_arrays(running.sink.ack_ids)
    outcomes: list[AckOutcome] = []

    def broken(_outcome: AckOutcome) -> None:
        raise ZeroDivisionError("a defect")

    before = defects()
    for job, settled in enumerate((outcomes.append, broken, outcomes.append)):
        running.acks.acknowledge([together.slice(job * 10, 10)], settled)
    assert await running.acks.flush(10) == 0
    assert outcomes == [AckOutcome(10, 0)] * 2
    assert running.statistics()["remaining"] == 0
    assert defects() - before == 1


async def test_released_messages_come_again_at_once(running: Room) -> None:
    await received(running, 10)
    running.acks.release(running.sink.ack_ids)
    await until(lambda: running.sink.count == 20)


async def test_extensions_reach_the_service_and_a_failed_one_is_told(running: Room) -> None:
    await received(running, 10)
    answers: list[bool] = []
    running.acks.extend(running.sink.ack_ids, answers.append)
    await until(lambda: answers == [True])
    assert running.statistics()["extended"] == 10
    running.emulator.faults.fail("ModifyAckDeadline", "UNAVAILABLE")
    running.acks.extend(running.sink.ack_ids, answers.append)
    await until(lambda: answers == [True, False])


async def test_settled_is_called_once_for_each_job_of_a_shared_request(running: Room) -> None:
    await received(running, 30)
    together = pa.concat_arrays(running.sink.ack_ids)
    outcomes: list[tuple[int, AckOutcome]] = []
    for job in range(3):
        part = together.slice(job * 10, 10)
        running.acks.acknowledge([part], lambda outcome, job=job: outcomes.append((job, outcome)))  # type: ignore[misc]
    running.acks.acknowledge([], lambda outcome: outcomes.append((9, outcome)))
    await running.acks.flush(10)
    assert sorted(outcomes) == [
        (0, AckOutcome(10, 0)),
        (1, AckOutcome(10, 0)),
        (2, AckOutcome(10, 0)),
        (9, AckOutcome(0, 0)),
    ]
    assert running.acks.statistics().requests <= 3


async def test_a_flush_that_cannot_finish_says_how_many_are_left(running: Room) -> None:
    await received(running, 10)
    running.emulator.faults.fail("Acknowledge", "UNAVAILABLE", times=1000)
    running.acks.acknowledge(running.sink.ack_ids, lambda _: None)
    assert await running.acks.flush(0.2) == 10
    running.emulator.faults.clear()


async def test_expired_acks_of_an_exactly_once_subscription_are_lost_one_by_one(running: Room) -> None:
    name = "projects/p/subscriptions/exact"
    await running.control.create(
        name, CreateSubscription(topic="projects/p/topics/readings", enable_exactly_once_delivery=True)
    )
    other = type(running.acks)(running.channel, name, deadline_s=60, clock=lambda: 0.0, base_backoff_s=0.01)
    sending = asyncio.ensure_future(other.run())
    outcomes: list[AckOutcome] = []
    await received(running, 3000)  # so many that what the service says of them is half a megabyte
    other.acknowledge(running.sink.ack_ids, outcomes.append)  # IDs of another subscription are no IDs of this one
    await until(lambda: bool(outcomes))
    assert outcomes == [AckOutcome(0, 3000)]
    assert other.statistics().retries == 0
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending


async def test_a_missing_subscription_is_described_as_failed(room: Room) -> None:
    with pytest.raises(SubscriptionFailed, match="NOT_FOUND"):
        await room.control.describe("projects/p/subscriptions/missing")


async def test_who_may_not_look_pulls_without_knowing(room: Room) -> None:
    room.emulator.faults.fail("GetSubscription", "PERMISSION_DENIED")
    assert (await room.control.describe(NAME)).ordering is None


async def test_an_existing_subscription_of_another_topic_is_refused(room: Room) -> None:
    with pytest.raises(InvalidRequest, match="projects/p/topics/readings, not to projects/p/topics/other"):
        await room.control.create(NAME, CreateSubscription(topic="projects/p/topics/other"))


async def test_a_subscription_is_created_as_asked(room: Room) -> None:
    wanted = CreateSubscription(
        topic="projects/p/topics/readings", enable_message_ordering=True, ack_deadline_seconds=77
    )
    info = await room.control.create("projects/p/subscriptions/made", wanted)
    assert (info.ordering, info.ack_deadline_s) == (True, 77)
    assert await room.control.create("projects/p/subscriptions/made", wanted) == info


async def test_leases_that_always_want_extending_leave_turns_for_acks(running: Room) -> None:
    await received(running, 5000)
    ack_ids = running.sink.ack_ids

    def again(_confirmed: object = None) -> None:
        running.acks.extend(ack_ids[:1], again)

    for _ in range(100):  # more than there are senders, and each comes back when it is done
        again()
    running.acks.acknowledge(ack_ids[1:], lambda _outcome: None)
    await until(lambda: running.statistics()["remaining"] <= len(ack_ids[0]))
