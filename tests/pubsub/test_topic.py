"""What counts as a confirmation of a Publish: an ID for each of its messages, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Sequence

import grpc
import grpc.aio
import pytest
from google.pubsub_v1.types import PublishResponse

from penstock.clock import boottime
from penstock.pubsub import Means, Published, PubSubChannel, Refused
from penstock.pubsub.gate import Gate
from penstock.pubsub.topic import TopicCalls
from penstock.settings import PubSubSettings

TOPIC = "projects/p/topics/t"


async def attempt(answer: bytes, messages: int, monkeypatch: pytest.MonkeyPatch) -> Published | Refused:
    """A Publish of so many messages to a server that gives this answer to anything."""

    async def publish(_request: bytes, _context: object) -> bytes:
        return answer

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(publish)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("google.pubsub.v1.Publisher", {"Publish": handler})]
    )
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    await server.start()
    try:
        async with PubSubChannel(PubSubSettings()) as channel:
            calls = TopicCalls(channel, TOPIC, Gate("topic", TOPIC, clock=boottime, rng=random.Random(1)))
            return await calls.attempt(b"", messages, timeout_s=30)
    finally:
        await server.stop(None)


def response(ids: Sequence[str]) -> bytes:
    encoded: bytes = PublishResponse.serialize(PublishResponse(message_ids=ids))
    return encoded


async def test_an_id_for_each_message_confirms_them(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = await attempt(response(["7", "8"]), 2, monkeypatch)
    assert isinstance(answer, Published)
    assert answer.message_ids.to_pylist() == ["7", "8"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (response(["7"]), "1 message IDs for 2 messages"),
        (response([]), "0 message IDs for 2 messages"),
        (response(["7", "8", "9"]), "3 message IDs for 2 messages"),
        (response(["7", ""]), "an empty message ID"),
        (b"\x0a\xff", "no PublishResponse"),
    ],
)
async def test_any_other_answer_is_tried_again(answer: bytes, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = await attempt(answer, 2, monkeypatch)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.means) == ("INTERNAL", Means.RETRY)
    assert words in refused.words
