"""Whatever a disk makes of our files: a batch has the rows it was sealed with, or is gone, or the folder is refused."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given
from tests.fuzz.inputs import damaged, fuzzed
from tests.storage.making import Host

from penstock.errors import InvalidOption
from penstock.reservoir.recovery import RecoveredBatch
from penstock.storage import open_store

Contents = dict[str, list[str]]
"""Batch ID → message IDs."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Contents]:
    """The folder of a daemon that was killed with three batches sealed, and what they had."""
    host = Host(tmp_path_factory.mktemp("sound") / "data")

    async def life() -> Contents:
        async with host.process() as node:
            reader = node.open()
            contents: Contents = {}
            for epoch in (1, 2, 3):
                node.deliver(20, data_bytes=300)
                batch = node.seal(reader, epoch, max_rows=15)
                assert batch is not None
                await node.reservoir.durable()
                contents[batch] = [text for part in node.slices(reader, epoch, batch, 1) for text in part]
            return contents

    contents = asyncio.run(life())
    for segment in host.path.rglob("*.seg"):  # of 64 MiB, nearly all of it nothing
        segment.write_bytes(segment.read_bytes().rstrip(b"\0") + bytes(64))
    return host.path, contents


def found_in(folder: Path) -> Contents | None:
    """What a daemon that starts on a folder would serve; None when it refuses to start."""
    try:
        store, found = open_store(folder, fsync=True, site="here")
    except InvalidOption:
        return None
    try:
        return {
            batch.id: messages_of(batch)
            for _, consumers in found.subscriptions
            for consumer in consumers
            for batch in consumer.batches
            if batch.damage is None
        }
    finally:
        store.close()


def messages_of(batch: RecoveredBatch) -> list[str]:
    """Message IDs, in order."""
    found: list[str] = []
    for piece in batch.pieces:
        assert piece.kept.copy is not None
        found += piece.kept.copy.rows.slice(piece.first_row, piece.rows).column("message_id").to_pylist()
    return found


def test_a_sound_folder_has_all(sound: tuple[Path, Contents], tmp_path: Path) -> None:
    folder, contents = sound
    shutil.copytree(folder, tmp_path / "copy")
    assert found_in(tmp_path / "copy") == contents


@fuzzed
@given(st.data())
def test_any_damage_costs_whole_batches_or_a_clear_refusal(
    sound: tuple[Path, Contents], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder, contents = sound
    copy = tmp_path_factory.mktemp("copy") / "data"
    shutil.copytree(folder, copy)
    files = sorted(file for file in copy.rglob("*") if file.is_file() and file.stat().st_size)
    hurt = data.draw(st.sampled_from(files))
    hurt.write_bytes(data.draw(damaged(hurt.read_bytes().rstrip(b"\0"))))
    served = found_in(copy)
    shutil.rmtree(copy.parent)
    if served is not None:
        assert served.items() <= contents.items()


@fuzzed
@given(st.binary(max_size=200))
def test_a_journal_of_any_bytes_is_empty_or_refused(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    folder = tmp_path_factory.mktemp("garbage")
    (folder / "journal").write_bytes(raw)
    assert not found_in(folder)
    shutil.rmtree(folder)
