"""A folder is used by one daemon, of a release that knows it, and trusted as far as it was synced."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from tests.storage.making import Host

from penstock.errors import InvalidOption
from penstock.storage import open_store


async def test_without_fsync_a_restarted_machine_has_another_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from penstock.storage import recovery

    host = Host(tmp_path / "data", fsync=False)
    async with host.process() as node:
        reader = node.open()
        node.deliver(10)
        node.seal(reader, 1)
        await node.reservoir.durable()
        name = node.reservoir.node
    async with host.process() as node:
        assert node.reservoir.node == name
        assert node.subscription.ledger.recovered == 10
    monkeypatch.setattr(recovery, "boot_id", lambda: "another boot")
    async with host.process() as node:
        assert node.reservoir.node != name
        assert node.subscription.batches == []


def test_a_folder_in_use_is_refused_with_its_holder(tmp_path: Path) -> None:
    held, _ = open_store(tmp_path, fsync=True, site="here")
    with pytest.raises(InvalidOption, match=f"PID {os.getpid()}"):
        open_store(tmp_path, fsync=True, site="here")
    held.close()
    again, _ = open_store(tmp_path, fsync=True, site="here")
    again.close()


def test_a_path_that_is_no_folder_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidOption, match=r"data_dir = .*file.*cannot be written to"):
        open_store(tmp_path / "file" / "below", fsync=True, site="here")


def test_a_full_disk_at_the_start_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_file: int, _data: bytes, _at: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(os, "pwrite", full)
        with pytest.raises(InvalidOption, match="cannot be used: No space left on device"):
            open_store(tmp_path, fsync=True, site="here")
    again, _ = open_store(tmp_path, fsync=True, site="here")
    again.close()


async def test_a_folder_of_another_release_is_refused(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock.storage import recovery

    async with host.process() as node:
        node.open()
        await node.reservoir.durable()
    monkeypatch.setattr(recovery, "FORMAT", recovery.FORMAT + 1)
    with pytest.raises(InvalidOption, match="another release"):
        open_store(host.path, fsync=True, site="here")
