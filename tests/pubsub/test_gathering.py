"""Responses wait for each other only as long as it pays, and a bad one takes no good one with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from google.pubsub_v1.types import PubsubMessage, ReceivedMessage, StreamingPullResponse
from tests.pubsub.conftest import until

from penstock.pubsub import wire
from penstock.pubsub.gathering import DECODE_BYTES, Gathering


def response(*ids: str, size: int = 1) -> bytes:
    messages = [ReceivedMessage(ack_id=one, message=PubsubMessage(data=b"x" * size)) for one in ids]
    encoded: bytes = StreamingPullResponse.serialize(StreamingPullResponse(received_messages=messages))
    return encoded


@dataclass
class Delivered:
    chunks: list[list[str]] = field(default_factory=list)
    received_at: list[float] = field(default_factory=list)
    refused: list[wire.Undecodable] = field(default_factory=list)
    now: float = 100.0

    def __post_init__(self) -> None:
        self.gathering = Gathering(lambda: self.now, self._deliver)

    def add(self, raw: bytes, *, received_at: float | None = None) -> None:
        self.gathering.add(raw, self.refused.append, received_at=received_at)

    def _deliver(self, decoded: wire.Decoded, received_at: float) -> None:
        self.chunks.append(decoded.ack_ids.to_pylist())
        self.received_at.append(received_at)


@pytest.fixture
async def delivered() -> AsyncIterator[Delivered]:
    made = Delivered()
    running = asyncio.ensure_future(made.gathering.run())
    yield made
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_the_response_of_an_idle_stream_is_handed_over_at_once(delivered: Delivered) -> None:
    delivered.add(response("a"))
    await until(lambda: delivered.chunks == [["a"]])


async def test_responses_of_a_busy_stream_are_decoded_together(delivered: Delivered) -> None:
    delivered.add(response("a"))
    await until(lambda: delivered.chunks == [["a"]])
    for one in "bcd":
        delivered.add(response(one))
        await asyncio.sleep(0)
    await until(lambda: delivered.chunks == [["a"], ["b", "c", "d"]])


async def test_enough_bytes_are_decoded_without_waiting(delivered: Delivered) -> None:
    for one in "ab":
        delivered.add(response(one, size=DECODE_BYTES // 2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert delivered.chunks == [["a", "b"]]


async def test_a_bad_response_is_refused_and_the_good_ones_beside_it_are_delivered(delivered: Delivered) -> None:
    for raw in (response("a"), b"\x0a\xff", response("b", "c")):
        delivered.add(raw)
    delivered.gathering.decode()
    assert delivered.chunks == [["a"], ["b", "c"]]
    assert len(delivered.refused) == 1


async def test_responses_without_messages_are_not_delivered(delivered: Delivered) -> None:
    delivered.add(b"")
    delivered.gathering.decode()
    assert (delivered.chunks, delivered.refused) == ([], [])


async def test_what_was_not_read_for_a_while_counts_as_received_when_it_came(delivered: Delivered) -> None:
    delivered.add(response("a"))
    delivered.add(response("b"), received_at=50.0)
    delivered.gathering.decode()
    delivered.add(response("c"))
    delivered.gathering.decode()
    assert delivered.chunks == [["a", "b"], ["c"]]
    assert delivered.received_at == [50.0, 100.0]


async def test_streams_are_decoded_together_and_only_the_one_of_a_bad_response_hears_of_it(
    delivered: Delivered,
) -> None:
    other: list[wire.Undecodable] = []
    for number in range(3):
        delivered.add(response(f"a{number}"))
        delivered.gathering.add(response(f"b{number}") if number else b"\x0a\xff", other.append)
    delivered.gathering.decode()
    assert [one for chunk in delivered.chunks for one in chunk] == ["a0", "a1", "b1", "a2", "b2"]
    assert (len(delivered.refused), len(other)) == (0, 1)
