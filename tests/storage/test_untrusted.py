"""Without `fsync`, what another boot of the machine left is another node's, whatever is missing from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.storage.making import Host

from penstock.storage import recovery


async def test_a_hole_that_the_machine_left_in_an_unsynced_journal_makes_another_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(tmp_path / "data", fsync=False)
    async with host.process() as node:
        reader = node.open()
        for epoch in range(1, 4):
            node.deliver(10)
            node.seal(reader, epoch)
            await node.reservoir.durable()
        name = node.reservoir.node
    journal = tmp_path / "data" / "journal"
    raw = bytearray(journal.read_bytes())
    end = len(raw.rstrip(b"\0"))
    raw[end // 2 : end // 2 + 32] = bytes(32)
    journal.write_bytes(raw)
    monkeypatch.setattr(recovery, "boot_id", lambda: "another boot")
    async with host.process() as node:
        assert node.reservoir.node != name
        assert node.subscription.batches == []
