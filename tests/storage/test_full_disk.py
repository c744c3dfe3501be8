"""A full disk is survived: nothing is answered that is not written, and what waits goes on by itself."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import weakref
from pathlib import Path
from typing import Any

import pytest
from tests.reservoir.making import CONSUMER
from tests.storage.making import Host, until

from penstock.errors import DiskFull
from penstock.storage import pending, store


class Disk:
    """The one place that writes, with an end that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full_for_rows = self.full_for_decisions = False
        self.refused = 0
        self._pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", self.pwrite)
        monkeypatch.setattr(store, "IDLE_S", 0.02)

    def pwrite(self, file: int, data: Any, at: int) -> int:
        is_segment = Path(f"/proc/self/fd/{file}").readlink().suffix == ".seg"
        full = self.full_for_rows if is_segment else self.full_for_decisions
        if full:
            self.refused += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._pwrite(file, data, at)


async def test_a_full_disk_refuses_seals_pauses_pulling_and_mends_itself(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    async with host.process() as node:
        reader = node.open()
        node.deliver(10)
        first = node.seal(reader, 1)
        assert first is not None
        await node.reservoir.durable()

        disk.full_for_rows = True
        node.deliver(20)
        node.seal(reader, 2)
        with pytest.raises(DiskFull, match=r"data_dir .*data.*No space left.*MiB free.*Make room"):
            await node.reservoir.durable()
        assert node.subscription.pause_reason == "disk"
        assert [batch.id for batch in node.subscription.batches] == [first], "what was not stored is no batch"
        assert node.subscription.backlog().rows == 20
        with pytest.raises(DiskFull):
            node.seal(reader, 2)
        assert node.commit(reader, 1, first) == "pending"
        await node.reservoir.durable()
        assert node.commit(reader, 1, first) == "acked", "what is stored can still be committed"
        assert node.subscription.unaccounted() == 0

        disk.full_for_rows = False
        await until(lambda: node.subscription.pause_reason is None)
        second = node.seal(reader, 2)
        assert second is not None
        await node.reservoir.durable()
    async with host.process() as node:
        assert len(node.slices(node.open(2, after=1), 2, second, 1)[0]) == 20


async def test_rows_that_went_back_are_not_held_for_a_full_disk(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    async with host.process() as node:
        reader = node.open()
        disk.full_for_rows = True
        node.deliver(20)
        held = weakref.ref(next(iter(node.subscription._holdings.queue)).rows)
        await until(lambda: node.subscription.pause_reason == "disk")
        subscription, consumer = node.reservoir.enter(CONSUMER, reader)
        subscription.close(consumer)
        await until(lambda: len(host.acks.released) == 20)
        await until(lambda: gc.collect() >= 0 and held() is None)


async def test_nothing_is_acknowledged_before_its_commit_is_written(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    sent: list[str] = []
    async with host.process() as node:
        reader = node.open()
        node.deliver(10)
        batch = node.seal(reader, 1)
        assert batch is not None
        await node.reservoir.durable()
        disk.full_for_decisions = True
        node.commit(reader, 1, batch)
        node.store.after(lambda: sent.append("ack"))
        with pytest.raises(DiskFull):
            await node.reservoir.durable()
        with pytest.raises(DiskFull):
            await node.reservoir.durable()
        assert sent == []
        disk.full_for_decisions = False
        await until(lambda: bool(sent))
        await node.reservoir.durable()


async def test_a_full_disk_is_asked_now_and_then_however_much_waits_for_it(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    monkeypatch.setattr(store, "IDLE_S", 3600.0)
    monkeypatch.setattr(pending, "JOB_BYTES", 1)
    async with host.process() as node:
        node.open()
        await node.reservoir.durable()
        disk.full_for_rows = True
        for _ in range(5):
            node.deliver(10)
        await until(lambda: node.subscription.pause_reason == "disk")
        refused = disk.refused
        for _ in range(20):  # turns of the loop, in each of which the writer could go on
            await asyncio.sleep(0.005)
        assert disk.refused == refused
