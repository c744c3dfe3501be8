"""The channel to the service: what it says when it cannot be made."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.errors import InvalidOption
from penstock.pubsub.channel import PubSubChannel
from penstock.settings import PubSubSettings


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
