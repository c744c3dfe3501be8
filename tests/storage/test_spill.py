"""Sealed batches in temporary files: the same rows, out of the heap, and gone without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import random
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.reservoir.making import Bench, message_ids
from tests.storage.making import until

from penstock.contract import PROTOCOL_VERSION
from penstock.errors import InvalidOption
from penstock.reservoir.batch import Batch, Snapshot
from penstock.settings import ReservoirSettings
from penstock.storage import Spill, folder, open_spill, segments, spill

MIB = 1 << 20


@dataclass
class SpillBench(Bench):
    """A reservoir that spills to a folder of the test's: every batch, or what is above a part of the share."""

    path: Path = field(default_factory=Path)
    above: float = 0.0

    def __post_init__(self) -> None:
        self.settings = ReservoirSettings(memory_limit_mb=64, spill_above=self.above, consumer_timeout_s=100_000)
        self.files = Spill(self.path, self.clock)
        self.spill = self.files
        super().__post_init__()

    def read(self, batch: Batch, slices: int) -> list[Snapshot]:
        planned = self.subscription.plan(self.consumer, batch.epoch, batch.id, slices, None, PROTOCOL_VERSION)
        return [self.reservoir.read(one.ticket) for one in planned]

    async def spilled(self) -> None:
        """Spill until nothing is due."""
        while True:
            self.reservoir.tick()
            if self.files.ready:
                return
            await until(lambda: self.files.ready)


@contextlib.asynccontextmanager
async def running(bench: SpillBench) -> AsyncIterator[SpillBench]:
    bench.open()
    task = asyncio.create_task(bench.files.run())
    try:
        yield bench
        assert bench.subscription.unaccounted() == 0
    finally:
        task.cancel()
        await asyncio.wait([task])
        bench.files.close()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "IDLE_S", 0.02)


def named(path: Path) -> list[Path]:
    """Files that somebody would find."""
    return list(path.iterdir())


def table(snapshots: list[Snapshot]) -> list[pa.Table]:
    return [pa.Table.from_batches([part.record_batch() for part in snapshot.parts]) for snapshot in snapshots]


@pytest.mark.parametrize("seed", range(8))
async def test_every_slice_has_the_same_rows_before_and_after(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    keys: list[str | None] = [None, "red", "green", "blue"]
    async with running(SpillBench(path=tmp_path, ordered=seed % 2 == 0)) as bench:
        for _ in range(rng.randint(1, 6)):
            bench.deliver(
                rng.randint(1, 300), keys=rng.sample(keys, rng.randint(1, 4)), data_bytes=rng.randint(0, 3000)
            )
        if rng.random() < 0.5:
            bench.deliver_again([rng.randrange(bench.next_message) for _ in range(5)])
        batch = bench.seal(1, max_rows=rng.choice([None, 10, 200]))
        acks = [chunk.ack_ids.to_pylist() for chunk in batch.chunks]
        sizes = (1, 3, rng.randint(2, 40))
        before = [table(bench.read(batch, slices)) for slices in sizes]
        await bench.spilled()
        assert bench.subscription.spilled_bytes == batch.bytes
        assert [table(bench.read(batch, slices)) for slices in sizes] == before
        assert [chunk.ack_ids.to_pylist() for chunk in batch.chunks] == acks
        assert named(tmp_path) == []
        bench.commit(1, batch.id)
        assert sorted(bench.acks.acknowledged) == sorted(text for ids in acks for text in ids)


async def test_rows_leave_the_budget_and_the_heap_and_ack_ids_stay(tmp_path: Path) -> None:
    async with running(SpillBench(path=tmp_path)) as bench:
        bench.deliver(5000, data_bytes=1000)
        batch = bench.seal(1)
        rows = [weakref.ref(chunk.rows) for chunk in batch.chunks]
        heap, used = pa.total_allocated_bytes(), bench.subscription.used_bytes
        await bench.spilled()
        gc.collect()
        assert not any(one() for one in rows)
        assert heap - pa.total_allocated_bytes() > 4_900_000
        assert used - bench.subscription.used_bytes > 4_900_000
        assert bench.subscription.used_bytes > 5000 * 5
        figures = bench.subscription.statistics()
        assert figures["batches_spilled"] == 1
        assert figures["spilled_bytes"] == batch.bytes
        written = bench.files.statistics()
        assert written["batches"] == 1
        assert batch.bytes <= int(str(written["bytes_written"])) < 1.2 * batch.bytes


async def test_only_what_is_above_the_mark_is_spilled_and_the_longest_waiting_batch_first(tmp_path: Path) -> None:
    async with running(SpillBench(path=tmp_path, above=0.25)) as bench:
        batches = []
        for epoch in range(1, 5):
            bench.deliver(6000, data_bytes=1000)
            bench.clock.now += 1
            batches.append(bench.seal(epoch))
        await bench.spilled()
        assert [bool(batch.filed_bytes) for batch in batches] == [True, True, False, False]


async def test_a_batch_that_ends_takes_its_files_with_it_and_a_reader_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", MIB)
    async with running(SpillBench(path=tmp_path)) as bench:
        bench.deliver(3000, data_bytes=1000)
        bench.deliver(3000, data_bytes=1000)
        batch = bench.seal(1)
        await bench.spilled()
        assert bench.files.statistics()["files"] == 2
        before = table(bench.read(batch, 3))
        held = bench.read(batch, 3)
        bench.commit(1, batch.id)
        await until(lambda: bench.files.statistics()["files"] == 0)
        bench.deliver(3000, data_bytes=1000)
        bench.seal(2)
        await bench.spilled()
        assert table(held) == before
        assert len(message_ids(bench.consumer.batches[2])) == 3000


async def test_a_batch_that_ends_while_it_is_written_leaves_nothing(tmp_path: Path) -> None:
    async with running(SpillBench(path=tmp_path)) as bench:
        bench.deliver(3000, data_bytes=1000)
        batch = bench.seal(1)
        bench.reservoir.tick()
        assert not bench.files.ready
        bench.commit(1, batch.id)
        assert bench.subscription.used_bytes > 3_000_000, "what is being written is still in memory"
        await until(lambda: bench.files.ready and bench.files.statistics()["files"] == 0)
        gc.collect()
        assert bench.subscription.used_bytes == 0


async def test_spilled_rows_that_are_requeued_are_sealed_again_without_being_written_twice(tmp_path: Path) -> None:
    async with running(SpillBench(path=tmp_path)) as bench:
        sent = bench.deliver(1000, data_bytes=100)
        bench.seal(1)
        await bench.spilled()
        written = bench.files.statistics()["bytes_written"]
        bench.commit(1, None)
        batches = [bench.seal(epoch, max_rows=400) for epoch in (2, 3, 4)]
        await bench.spilled()
        assert [text for batch in batches for text in message_ids(batch)] == sent
        assert bench.files.statistics()["bytes_written"] == written
        bench.subscription.release(bench.consumer, 2, batches[0].id)
        assert bench.acks.released == [f"a{n}" for n in range(400)]


async def test_rows_that_are_picked_out_of_a_file_count_again(
    tmp_path: Path,
) -> None:
    async with running(SpillBench(path=tmp_path, ordered=True)) as bench:
        bench.deliver(100, keys=["red"])
        bench.deliver(1000, keys=["red", "blue"], data_bytes=1000)
        first, second = bench.seal(1, max_rows=100), bench.seal(2)
        await bench.spilled()
        bench.subscription._lives.requeue(bench.consumer, second)
        before = bench.subscription.used_bytes
        bench.subscription.release(bench.consumer, 1, first.id)
        assert bench.subscription.backlog().rows == 500
        assert bench.subscription.used_bytes > before + 400_000


class FullDisk:
    """`pwrite` fails while the test says so, after some bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        self._pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", self.pwrite)

    def pwrite(self, file: int, data: Any, at: int) -> int:
        if self.left is not None and self.left < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.left is not None:
            self.left -= len(data)
        return self._pwrite(file, data, at)


async def test_a_full_disk_leaves_batches_in_memory_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = FullDisk(monkeypatch)
    async with running(SpillBench(path=tmp_path)) as bench:
        disk.left = 400_000
        for _ in range(10):
            bench.deliver(100, data_bytes=1000)
        batch = bench.seal(1)
        before, used = table(bench.read(batch, 3)), bench.subscription.used_bytes
        bench.reservoir.tick()
        await until(lambda: bench.files.statistics()["problem"] is not None)
        assert "No space left" in str(bench.files.statistics()["problem"])
        assert "spill failed" in "".join(capsys.readouterr())
        await until(lambda: bench.files.statistics()["files"] == 0)
        assert table(bench.read(batch, 3)) == before
        assert bench.subscription.used_bytes == used
        assert bench.subscription.spilled_bytes == 0
        assert not bench.files.ready, "not again at once"
        disk.left = None
        bench.clock.now += spill.RETRY_S
        bench.open(2)
        await bench.spilled()
        assert bench.subscription.spilled_bytes == batch.bytes
        assert bench.files.statistics()["problem"] is None
        assert bench.files.statistics()["failures"] == 1
        assert table(bench.read(batch, 3)) == before


def test_a_folder_in_memory_is_refused_where_it_was_named_and_left_alone_where_it_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = lambda: 0.0  # noqa: E731
    monkeypatch.setattr(folder, "_filesystem", lambda _path: "tmpfs")
    with pytest.raises(InvalidOption, match=r"spill_dir = .*tmpfs, which is memory.*reservoir.spill_above = 1"):
        open_spill(str(tmp_path), clock)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert open_spill(None, clock) is None
    assert "tmpfs" in "".join(capsys.readouterr())


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"spill_dir = .*cannot be written to: No such file"):
        open_spill(str(tmp_path / "missing"), lambda: 0.0)


async def test_daemons_share_a_folder_and_touch_no_file_of_others(tmp_path: Path) -> None:
    theirs = tmp_path / "00000001.seg"
    theirs.write_text("somebody else's")
    async with running(SpillBench(path=tmp_path)) as one, running(SpillBench(path=tmp_path)) as two:
        read = []
        for bench, size in ((one, 10), (two, 20)):
            bench.deliver(1000, data_bytes=size)
            batch = bench.seal(1)
            before = table(bench.read(batch, 2))
            await bench.spilled()
            read.append((bench, batch, before))
        for bench, batch, before in read:
            assert table(bench.read(batch, 2)) == before
            bench.commit(1, batch.id)
        await until(lambda: one.files.statistics()["files"] == two.files.statistics()["files"] == 0)
    assert theirs.read_text() == "somebody else's"
    assert named(tmp_path) == [theirs]
