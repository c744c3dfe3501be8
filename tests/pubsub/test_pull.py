"""Pull streams: what arrives is handed over, what ends is reopened, what is fatal is told."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from tests.pubsub.conftest import NAME, Room, until

from penstock.clock import boottime
from penstock.errors import SubscriptionFailed
from penstock.pubsub import pull, stream, verdict, wire
from penstock.pubsub.channel import STREAMS_PER_CHANNEL
from penstock.settings import PubSubSettings


async def test_messages_arrive_as_chunks(running: Room) -> None:
    await running.publish(1000)
    await until(lambda: running.sink.count == 1000)
    assert sorted(int(d) for rows in running.sink.rows for d in rows.column("data").to_pylist()) == list(range(1000))
    statistics = running.puller.statistics()
    assert statistics.messages == 1000
    assert statistics.all_open_since is not None


@pytest.mark.parametrize("code", ["UNAVAILABLE", "INTERNAL", "OK", "RESOURCE_EXHAUSTED", "CANCELLED"])
async def test_a_stream_cut_by_the_server_is_reopened(running: Room, code: str) -> None:
    await running.publish(10)
    await until(lambda: running.sink.count == 10)
    running.acks.acknowledge(running.sink.ack_ids, lambda _: None)
    await until(lambda: running.statistics()["acked"] == 10)
    assert running.emulator.faults.cut_streams(NAME, code) == 1
    await running.publish(10)
    await until(lambda: running.sink.count == 20)
    assert running.puller.statistics().reconnects == 1


async def test_a_cut_connection_is_reopened(running: Room) -> None:
    await running.publish(10)
    await until(lambda: running.sink.count == 10)
    assert running.emulator.faults.cut_connections() >= 1
    await until(lambda: running.puller.statistics().reconnects >= 1)
    await until(lambda: running.statistics()["streams"] == 1)


@pytest.mark.parametrize("code", ["NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED", "INVALID_ARGUMENT"])
async def test_a_fatal_code_ends_the_pull_with_googles_words(room: Room, code: str) -> None:
    room.emulator.faults.fail("StreamingPull", code, message="the words of the service")
    with pytest.raises(BaseExceptionGroup) as caught:
        await asyncio.wait_for(room.puller.run(), 10)
    (failure,) = caught.value.exceptions
    assert isinstance(failure, SubscriptionFailed)
    assert failure.details["service_code"] == code
    assert "the words of the service" in failure.message


async def test_other_codes_are_retried_until_they_stop(running: Room) -> None:
    running.emulator.faults.fail("StreamingPull", "UNAVAILABLE", times=3)
    running.emulator.faults.cut_streams(NAME, "UNAVAILABLE")
    await running.publish(5)
    await until(lambda: running.sink.count == 5, 20)


async def test_an_undecodable_response_is_dropped_and_the_good_ones_beside_it_are_kept(running: Room) -> None:
    await running.publish(5)
    await until(lambda: running.sink.count == 5)
    running.emulator.faults.garble(NAME)
    await until(lambda: running.puller.statistics().undecodable == 1)
    await running.publish(5)
    await until(lambda: running.sink.count >= 10)
    assert running.puller.statistics().reconnects >= 1


async def test_nothing_is_taken_while_paused_and_all_of_it_after(running: Room) -> None:
    await until(lambda: running.puller.statistics().responses == 1)  # the emulator's first has only properties
    running.sink.paused = True
    await running.publish(1)
    await until(lambda: running.sink.count == 1)  # the read that was already waiting
    await running.publish(100)
    await asyncio.sleep(0.3)
    assert running.sink.count == 1
    running.sink.resume()
    await until(lambda: running.sink.count == 101)


async def test_only_what_waited_while_a_stream_stood_still_counts_as_old(
    running: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message a second would take hours to fill a window, and would be thought hours old."""
    monkeypatch.setattr(stream, "AGED_S", 0.3)
    await until(lambda: running.puller.statistics().responses == 1)
    running.sink.paused = True
    paused_at = boottime()
    await running.publish(1)
    await until(lambda: running.sink.count == 1)  # the read that was already waiting
    await running.publish(1)
    await asyncio.sleep(0.2)
    resumed_at = boottime()
    running.sink.resume()
    await until(lambda: running.sink.count == 2)
    assert paused_at <= running.sink.received_at[-1] < resumed_at
    await asyncio.sleep(0.3)
    published_at = boottime()
    await running.publish(1)
    await until(lambda: running.sink.count == 3)
    assert running.sink.received_at[-1] >= published_at


async def test_what_waited_while_the_process_stood_still_counts_as_old_on_every_stream(
    running: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "AGED_S", 1.0)
    monkeypatch.setattr(pull, "SCALE_INTERVAL_S", 0.1)
    running.sink.saturated = True
    await until(lambda: running.puller.statistics().responses == 2, 15)  # two streams, and both only have properties
    stopped_at = running.clock()
    running.clock.ahead_s += 20.0
    for _ in range(2):
        await running.publish(2)  # the emulator takes turns
    await until(lambda: running.sink.count == 4)
    assert all(at < stopped_at + 1 for at in running.sink.received_at)
    await asyncio.sleep(1.1)
    await running.publish(1)
    await until(lambda: running.sink.count == 5)
    assert running.sink.received_at[-1] > stopped_at + 20


class TestUnread:
    @pytest.fixture
    def settings(self) -> PubSubSettings:
        return PubSubSettings(jitter_ms=0, ack_deadline_s=10)

    async def test_a_stream_not_read_for_half_its_deadline_is_closed_and_reopened_when_resumed(
        self, running: Room
    ) -> None:
        await until(lambda: running.statistics()["streams"] == 1)
        running.sink.paused = True
        await running.publish(1)
        await until(lambda: running.statistics()["streams"] == 0, 15)
        running.sink.resume()
        await running.publish(1)
        await until(lambda: running.sink.count >= 2, 15)

    async def test_what_it_held_unread_is_given_back_at_once(self, running: Room) -> None:
        await until(lambda: running.puller.statistics().responses == 1)
        running.sink.paused = True
        await running.publish(1)
        await until(lambda: running.sink.count == 1)  # the read that was already waiting
        await running.publish(100)
        await until(lambda: running.acks.statistics().released == 100, 15)
        running.sink.resume()
        await until(lambda: running.sink.count == 101, 15)


class TestScaling:
    @pytest.fixture
    def settings(self, monkeypatch: pytest.MonkeyPatch) -> PubSubSettings:
        monkeypatch.setattr(pull, "SCALE_INTERVAL_S", 0.1)
        return PubSubSettings(jitter_ms=0, max_streams=2)

    async def test_a_stream_too_many_hands_over_what_it_was_sent_before_it_ends(self, running: Room) -> None:
        running.sink.saturated = True
        await until(lambda: running.puller.statistics().responses == 2)
        running.sink.paused = True
        for _ in range(10):
            await running.publish(50)  # the emulator takes turns, so that both streams hold some
        await asyncio.sleep(0.3)  # on their way into streams that nobody reads; then both count as idle
        held = running.sink.count
        running.sink.saturated = running.sink.paused = False  # but those that stand still are not told yet
        await until(lambda: running.puller.statistics().streams == 1)
        assert running.sink.count == held
        running.sink.resume()
        await until(lambda: running.sink.count == 500)
        await until(lambda: running.statistics()["streams"] == 1)


class TestARush:
    @pytest.fixture
    def settings(self, monkeypatch: pytest.MonkeyPatch) -> PubSubSettings:
        monkeypatch.setattr(pull, "SCALE_INTERVAL_S", 3600.0)
        monkeypatch.setattr(verdict, "STREAM_BYTES_PER_S", 1)
        return PubSubSettings(jitter_ms=0, max_streams=3)

    async def test_opens_as_many_streams_as_may_be_before_the_interval_is_over(self, running: Room) -> None:
        await until(lambda: running.puller.statistics().responses == 1)

        async def brings_more_until_there_are(streams: int) -> None:
            while running.puller.statistics().streams < streams:
                await running.publish(100)
                await asyncio.sleep(0.01)

        await asyncio.wait_for(brings_more_until_there_are(3), 15)
        await until(lambda: running.statistics()["streams"] == 3)


async def test_a_stream_that_stands_still_gives_back_what_it_holds_when_it_is_to_leave(running: Room) -> None:
    await until(lambda: running.puller.statistics().responses == 1)
    running.sink.paused = True
    await running.publish(1)
    await until(lambda: running.sink.count == 1)  # the read that was already waiting
    await running.publish(100)
    await until(lambda: running.statistics()["outstanding"] == 101)
    await running.puller.leave(5)
    await until(lambda: running.acks.statistics().released == 100)
    assert running.statistics()["streams"] == 0


async def test_what_the_service_says_of_the_subscription_is_learned_from_the_stream(running: Room) -> None:
    await until(lambda: running.puller.properties is not None)
    assert running.puller.properties == wire.Properties(ordering=False, exactly_once=False)


async def test_the_hundred_and_first_stream_gets_a_connection_of_its_own(room: Room) -> None:
    with contextlib.ExitStack() as calls:
        for _ in range(STREAMS_PER_CHANNEL + 1):
            calls.enter_context(room.channel.streaming_pull())
        assert [lane.streams for lane in room.channel._lanes] == [STREAMS_PER_CHANNEL, 1]
    assert [lane.streams for lane in room.channel._lanes] == [0, 0]


async def test_cancelling_the_pull_closes_its_streams(room: Room) -> None:
    pulling = asyncio.ensure_future(room.puller.run())
    await until(lambda: room.statistics()["streams"] == 1)
    pulling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulling
    await until(lambda: room.statistics()["streams"] == 0)
    assert room.puller.statistics().streams == 0
