"""A reservoir on a folder: what was durable is there again, memory is counted, and a full disk is survived."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.reservoir.making import CONSUMER
from tests.storage.making import Host

from penstock.errors import BatchGone, DiskFull, InvalidOption, ReaderFenced
from penstock.storage import folder, open_store, segments, store


@pytest.fixture(params=["disk", "tmpfs"])
def host(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """On what the test's folder is, and what it is taken for."""
    monkeypatch.setattr(folder, "_filesystem", lambda _path: "ext4" if request.param == "disk" else "tmpfs")
    return Host(tmp_path / "data")


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


async def test_a_sealed_batch_is_there_again_with_its_rows_in_the_same_slices(host: Host) -> None:
    async with host.process() as node:
        reader = node.open()
        for count in (10, 20, 30):
            node.deliver(count)
        batch = node.seal(reader, 1, max_rows=25)
        assert batch is not None
        await node.reservoir.durable()
        before = node.slices(reader, 1, batch, 4)
        name = node.reservoir.node
    async with host.process() as node:
        assert node.reservoir.node == name
        reader = node.open(2)
        assert node.slices(reader, 1, batch, 4) == before
        assert node.subscription.unaccounted() == 0
        node.reservoir.tick()
        assert len(host.acks.extended) == 25, "their leases are taken up at once"
        node.commit(reader, 1, batch)
        await node.reservoir.durable()
    assert sorted(host.acks.acknowledged) == sorted(f"a{n}" for n in range(25))


async def test_ordered_rows_are_in_the_same_slices_after_a_restart(host: Host) -> None:
    host.ordered = True
    async with host.process() as node:
        reader = node.open()
        node.deliver(50, keys=("red", "green", None))
        node.deliver(50, keys=("blue", "red", None))
        batch = node.seal(reader, 1, max_rows=77)
        assert batch is not None
        await node.reservoir.durable()
        before = node.slices(reader, 1, batch, 5)
    async with host.process() as node:
        assert node.slices(node.open(2), 1, batch, 5) == before


async def test_what_was_not_sealed_is_not_recovered(host: Host) -> None:
    async with host.process() as node:
        node.open()
        node.deliver(100)
        await node.reservoir.durable()
    async with host.process() as node:
        assert node.subscription.batches == []
        assert node.subscription.ledger.recovered == 0
        assert not list((host.path / "segments").iterdir()), "its files are removed"


async def test_rows_leave_the_heap_once_they_are_written_and_count_only_where_the_store_is_memory(host: Host) -> None:
    async with host.process() as node:
        reader = node.open()
        node.deliver(1000, data_bytes=1000)
        heap = node.subscription.used_bytes
        assert heap > 1_000_000
        node.seal(reader, 1)
        await node.reservoir.durable()
        gc.collect()
        if node.store.is_memory:
            assert 0.9 * heap < node.subscription.used_bytes < 1.3 * heap
        else:
            assert heap - node.subscription.used_bytes > 1_000_000, "ack IDs and where to find them stay"


async def test_a_segment_goes_with_the_last_batch_in_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 100_000)
    monkeypatch.setattr(store, "IDLE_S", 0.02)
    async with host.process() as node:
        reader = node.open()
        for epoch in range(1, 6):
            node.deliver(100, data_bytes=600)
            batch = node.seal(reader, epoch)
            assert batch is not None
            await node.reservoir.durable()
            if epoch > 1:
                node.commit(reader, epoch, batch)
        await until(lambda: len(list((host.path / "segments").iterdir())) == 1)
        assert node.subscription.unaccounted() == 0


async def test_what_a_reader_holds_stays_while_its_file_is_filled_again(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 100_000)
    async with host.process() as node:
        reader = node.open()
        held = []
        for epoch in range(1, 12):
            node.deliver(100, data_bytes=600)
            batch = node.seal(reader, epoch)
            assert batch is not None
            await node.reservoir.durable()
            if epoch % 3 == 0:
                ids = node.slices(reader, epoch, batch, 1)
                held.append((ids, [part.rows for part in node.subscription.batches[0].snapshot(0, 1).parts]))
            node.commit(reader, epoch, batch)
            await node.reservoir.durable()
        files = len(list((host.path / "segments").iterdir()))
        assert files < 11 - len(held), "others are filled again"
        for ids, parts in held:
            assert [part.column("message_id").to_pylist() for part in parts] == ids


async def test_a_seal_leaves_what_the_disk_has_still_to_take_to_the_next_one(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    from penstock.reservoir import notes

    monkeypatch.setattr(notes, "UNWRITTEN_BYTES", 50_000)
    async with host.process() as node:
        reader = node.open()
        for _ in range(10):
            node.deliver(100, data_bytes=300)
        node.seal(reader, 1)
        assert node.subscription.batches[0].rows == 100
        await node.reservoir.durable()
        await until(lambda: int(str(node.store.statistics()["segment_bytes_written"])) > 300_000)
        node.seal(reader, 2)
        assert node.subscription.backlog().rows == 0


async def test_requeued_rows_are_sealed_again_without_being_written_twice(host: Host) -> None:
    async with host.process() as node:
        reader = node.open()
        node.deliver(10)
        node.seal(reader, 1)
        node.deliver(10)
        node.seal(reader, 2)
        await node.reservoir.durable()
    async with host.process() as node:
        reader = node.open(2, after=0)  # the offset of epoch 2 was never written down
        assert node.subscription.backlog().rows == 10
        again = node.seal(reader, 2)
        assert again is not None
        await node.reservoir.durable()
        assert node.store.statistics()["segment_bytes_written"] == 0
        assert node.slices(reader, 2, again, 1) == [[f"m{n}" for n in range(10, 20)]]


async def test_an_unconfirmed_ack_is_repeated_and_a_confirmed_one_is_not(host: Host) -> None:
    host.acks.at_once = False
    async with host.process() as node:
        reader = node.open()
        node.deliver(10)
        batch = node.seal(reader, 1)
        assert batch is not None
        node.commit(reader, 1, batch)
        await node.reservoir.durable()
    host.acks.pending.clear()
    async with host.process() as node:
        (ack_ids, _) = host.acks.pending[0]
        assert ack_ids == [f"a{n}" for n in range(10)]
        host.acks.confirm()
        assert node.commit(node.open(2, after=1), 1, batch) == "acked"
        await node.reservoir.durable()
    async with host.process() as node:
        assert not host.acks.pending
        assert node.commit(node.open(3, after=1), 1, batch) == "acked", "it is remembered how it ended"


@pytest.mark.parametrize("away_s", [400.0, -1000.0], ids=["too long", "in the future"])
async def test_a_consumer_that_was_silent_for_too_long_is_released_before_anything_is_served(
    host: Host, away_s: float
) -> None:
    async with host.process() as node:
        reader = node.open()
        node.deliver(10)
        batch = node.seal(reader, 1)
        await node.reservoir.durable()
    host.wall.offset += away_s
    async with host.process() as node:
        await node.reservoir.durable()
        assert host.acks.released == [f"a{n}" for n in range(10)]
        with pytest.raises(BatchGone, match="no contact while the daemon was away"):
            node.slices(node.open(2), 1, batch or "", 1)
        assert node.subscription.unaccounted() == 0


async def test_a_restart_does_not_renew_contact(host: Host) -> None:
    async with host.process() as node:
        node.open()
        await node.reservoir.durable()
    for _ in range(3):
        host.clock.now += 90
        async with host.process() as node:
            node.reservoir.tick()
            assert node.subscription.wanted
            await node.reservoir.durable()
    host.clock.now += 90
    async with host.process() as node:
        node.reservoir.tick()
        assert not node.subscription.wanted


async def test_fences_survive_and_so_do_those_of_consumers_that_made_room(host: Host) -> None:
    async with host.process() as node:
        node.open(5, consumer="a")
        node.reservoir.enter("a", node.open(6, consumer="a"))[0].bye(node.subscription.consumers["a"])
        for number in range(70):
            reader = node.open(1, consumer=f"c{number}")
            node.subscription.bye(node.reservoir.enter(f"c{number}", reader)[1])
        assert "a" not in node.subscription.consumers
        await node.reservoir.durable()
    async with host.process() as node:
        for generation, consumer in ((5, "a"), (0, "c69")):
            with pytest.raises(ReaderFenced):
                node.open(generation, consumer=consumer)


async def test_rows_of_a_missing_file_are_gone_and_the_others_are_served(host: Host) -> None:
    async with host.process() as node:
        reader = node.open()
        node.deliver(10)
        first = node.seal(reader, 1)
        await node.reservoir.durable()
    (segment,) = (host.path / "segments").iterdir()
    async with host.process() as node:
        reader = node.open(2, after=0)
        node.deliver(10)
        second = node.seal(reader, 2)
        await node.reservoir.durable()
    segment.unlink()
    async with host.process() as node:
        reader = node.open(3, after=1)
        with pytest.raises(BatchGone, match="lost"):
            node.slices(reader, 1, first or "", 1)
        assert node.slices(reader, 2, second or "", 1) == [[f"m{n}" for n in range(10, 20)]]
        assert node.commit(reader, 1, first or "") == "gone"
    assert host.acks.acknowledged == []


class Disk:
    """The one place that writes, with an end that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full_for_rows = self.full_for_decisions = False
        self._pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", self.pwrite)
        monkeypatch.setattr(store, "IDLE_S", 0.02)

    def pwrite(self, file: int, data: Any, at: int) -> int:
        is_segment = Path(f"/proc/self/fd/{file}").readlink().suffix == ".seg"
        full = self.full_for_rows if is_segment else self.full_for_decisions
        if full:
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


async def test_a_journal_that_grew_is_written_anew(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock.storage import journal

    monkeypatch.setattr(journal, "REWRITE_BYTES", 10_000)
    async with host.process() as node:
        reader = node.open()
        for epoch in range(1, 60):
            node.deliver(5)
            batch = node.seal(reader, epoch)
            assert batch is not None
            node.commit(reader, epoch, batch)
            await node.reservoir.durable()
        node.deliver(5)
        last = node.seal(reader, 60)
        await node.reservoir.durable()
        found = node.store.statistics()
        assert int(str(found["journal_bytes"])) < 40_000 < int(str(found["journal_bytes_written"]))
    async with host.process() as node:
        consumer = node.subscription.consumers[CONSUMER]
        assert consumer.committed_through == 59
        assert [batch.id for batch in consumer.batches.values()] == [last]
        assert len(consumer.ended) == 16


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


async def test_a_folder_of_another_release_is_refused(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock.storage import recovery

    async with host.process() as node:
        node.open()
        await node.reservoir.durable()
    monkeypatch.setattr(recovery, "FORMAT", 2)
    with pytest.raises(InvalidOption, match="another release"):
        open_store(host.path, fsync=True, site="here")
