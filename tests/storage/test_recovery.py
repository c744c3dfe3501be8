"""A reservoir on a folder, restarted: what was durable is there again, and nothing else."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from tests.reservoir.making import CONSUMER
from tests.storage.making import Host

from penstock.errors import BatchGone, InvalidOption, ReaderFenced
from penstock.storage import open_store


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


async def test_fences_survive_and_so_do_those_of_consumers_that_made_room_or_were_closed(host: Host) -> None:
    async with host.process() as node:
        node.open(5, consumer="a")
        node.reservoir.enter("a", node.open(6, consumer="a"))[0].bye(node.subscription.consumers["a"])
        for number in range(70):
            reader = node.open(1, consumer=f"c{number}")
            node.subscription.bye(node.reservoir.enter(f"c{number}", reader)[1])
        node.open(7, consumer="closed")
        node.subscription.close(node.subscription.consumers["closed"])
        assert "a" not in node.subscription.consumers
        await node.reservoir.durable()
    async with host.process() as node:
        for generation, consumer in ((5, "a"), (0, "c69"), (6, "closed")):
            with pytest.raises(ReaderFenced):
                node.open(generation, consumer=consumer)


async def test_an_excluded_batch_is_never_acknowledged_by_a_process_that_comes_after(host: Host) -> None:
    async with host.process() as node:
        reader = node.open()
        node.deliver(10)
        batch = node.seal(reader, 1) or ""
        node.subscription.exclude(node.reservoir.enter(CONSUMER, reader)[1], 1, [batch, "of a lost node"])
        await node.reservoir.durable()
    for generation in (2, 3):
        async with host.process() as node:
            reader = node.open(generation)
            assert node.reservoir.enter(CONSUMER, reader)[1].excluded == {batch: 1, "of a lost node": 1}
            await node.reservoir.durable()
    async with host.process() as node:
        reader = node.open(4)
        assert node.commit(reader, 1, batch) == "released"
        await node.reservoir.durable()
    assert (len(host.acks.released), host.acks.acknowledged) == (10, [])
    async with host.process() as node:
        reader = node.open(5, after=1)
        assert not node.reservoir.enter(CONSUMER, reader)[1].excluded
        assert node.commit(reader, 1, batch) == "gone"
    assert not host.acks.acknowledged


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


async def test_rows_that_the_disk_cannot_read_are_gone_and_the_daemon_starts(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = await sealed(host)

    def unreadable(_file: int, _length: int, _at: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", unreadable)
    async with host.process() as node:
        with pytest.raises(BatchGone, match=r"lost: .*seg cannot be read at byte 0: Input/output error"):
            node.slices(node.open(2), 1, batch, 1)


async def test_a_start_that_finds_no_memory_gives_no_batch_up(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = await sealed(host)

    def no_memory(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    with monkeypatch.context() as without:
        without.setattr("mmap.mmap", no_memory)
        with pytest.raises(InvalidOption, match="cannot be used: Cannot allocate memory"):
            open_store(host.path, fsync=True, site="here")
    async with host.process() as node:
        assert len(node.slices(node.open(2), 1, batch, 1)[0]) == 10


async def test_what_a_daemon_without_fsync_left_is_safe_once_one_with_it_has_started(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.fsync = False
    await sealed(host)
    synced: list[str] = []
    really = os.fdatasync

    def noted(file: int) -> None:
        synced.append(Path(f"/proc/self/fd/{file}").readlink().name)
        really(file)

    monkeypatch.setattr(os, "fdatasync", noted)
    host.fsync = True
    async with host.process():
        assert [name for name in synced if name.endswith(".seg")] == ["00000001.seg"]


async def test_a_start_whose_sync_fails_is_refused_with_the_reason(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = await sealed(host)

    def failing(_file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", failing)
        with pytest.raises(InvalidOption, match=r"cannot be used: a sync failed: .*Input/output error"):
            open_store(host.path, fsync=True, site="here")
    async with host.process() as node:
        assert len(node.slices(node.open(2), 1, batch, 1)[0]) == 10


async def sealed(host: Host) -> str:
    """The batch of ten rows that a daemon had when it was killed."""
    async with host.process() as node:
        reader = node.open()
        node.deliver(10)
        batch = node.seal(reader, 1)
        assert batch is not None
        await node.reservoir.durable()
    return batch


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
