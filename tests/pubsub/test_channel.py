"""The channel to the service: what it says when it cannot be made, and how soon it is made again."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import grpc.aio
import pytest

from penstock.emulator import Emulator
from penstock.errors import InvalidOption
from penstock.pubsub.channel import PubSubChannel
from penstock.settings import PubSubSettings

OUTAGE_S, NOTICED_S = 30.0, 10.0
"""GRPC's own pauses grow by 1.6 from one second, so that it would look at 26 s and at 43 s."""


@pytest.fixture(autouse=True)
def no_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)


async def enter(settings: PubSubSettings) -> str:
    """What the channel says to these settings."""
    with pytest.raises(InvalidOption) as raised:
        async with PubSubChannel(settings):
            pass
    return raised.value.message


async def test_missing_credentials_are_told_with_the_ways_to_give_some(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nowhere.json"))
    said = await enter(PubSubSettings())
    assert str(tmp_path / "nowhere.json") in said
    assert "pubsub.credentials_file" in said
    assert "PUBSUB_EMULATOR_HOST" in said


@pytest.mark.parametrize("content", [None, "xx", "{}", b"\xff\xfe"])
async def test_a_wrong_key_file_is_named(tmp_path: Path, content: str | bytes | None) -> None:
    file = tmp_path / "key.json"
    if content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    said = await enter(PubSubSettings(credentials_file=str(file)))
    assert said.startswith(f"pubsub.credentials_file = {str(file)!r} is no key file of a service account: ")


@pytest.mark.long
async def test_the_end_of_an_outage_is_noticed_within_seconds_however_long_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{port}")
    async with PubSubChannel(PubSubSettings()) as channel:
        call = channel.unary("Publisher", "Publish")

        async def answered() -> bool:
            try:
                await call(b"", timeout=5)
            except grpc.aio.AioRpcError as error:
                return error.code() is not grpc.StatusCode.UNAVAILABLE
            return True

        loop = asyncio.get_running_loop()
        end = loop.time() + OUTAGE_S
        while loop.time() < end:
            assert not await answered()
            await asyncio.sleep(0.5)
        async with Emulator(port), asyncio.timeout(NOTICED_S):
            while not await answered():  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.1)
