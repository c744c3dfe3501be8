"""A reservoir on a folder: rows move to files, memory is counted, and files go with what is in them."""

from __future__ import annotations

import gc

import pytest
from tests.storage.making import Host, until

from penstock.storage import segments, store


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
