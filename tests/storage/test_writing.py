"""A job that could not be written is told of, and nothing of it stays behind."""

from __future__ import annotations

import gc
import random
import weakref

import pytest
from tests.reservoir.making import CONSUMER, NAME, messages
from tests.simulation.disk import Disk, Killed

from penstock.contract import Reader
from penstock.reservoir.decisions import (
    BatchEnded,
    BatchSealed,
    ConsumerNoted,
    Piece,
    SubscriptionDropped,
    SubscriptionHeld,
)
from penstock.reservoir.kept import Copy, Kept
from penstock.storage import pending
from penstock.storage.ports import StoreFailed
from penstock.storage.recovery import Opened, open_disk


@pytest.fixture
def disk() -> Disk:
    return Disk(random.Random(1), "here", fsync=True, is_memory=False)


def append(opened: Opened, count: int = 3) -> Kept:
    rows, ack_ids = messages(0, count)
    kept = Kept(counts=False)
    opened.pending.append(NAME, Copy(rows, ack_ids, None), kept, lambda _copy: None)
    return kept


def test_a_failed_job_is_freed_with_its_last_user(disk: Disk) -> None:
    opened = open_disk(disk, site="here")
    disk.full_for_rows = True
    append(opened)
    gc.collect()
    gc.disable()
    try:
        job = opened.pending.take(grown=False)
        opened.writing.write(job)
        assert job.failure is not None
        assert len(job.appends) == 1, "what was not written is still to be written"
        left = weakref.ref(job)
        del job
        assert left() is None, "no cycle through its error"
    finally:
        gc.enable()


def test_rows_stay_until_what_ended_their_batch_is_on_record(disk: Disk) -> None:
    opened = open_disk(disk, site="here")
    kept = append(opened)
    run_job(opened)
    disk.full_for_decisions = True
    opened.pending.record(SubscriptionDropped(NAME))
    del kept
    run_job(opened)
    opened.rows.close_unused()
    assert disk.files, "a restart would find the batch again, and needs its rows"
    disk.full_for_decisions = False
    run_job(opened)
    opened.rows.close_unused()
    assert not disk.files


def test_rows_stay_while_what_ended_their_batch_waits_behind_other_rows(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending, "JOB_BYTES", 1)
    opened = open_disk(disk, site="here")
    kept = append(opened)
    run_job(opened)
    first, second = append(opened), append(opened)
    opened.pending.record(BatchSealed(NAME, CONSUMER, 1, "batch", (Piece(first, 0, 3), Piece(second, 0, 3))))
    opened.pending.record(SubscriptionDropped(NAME))
    del kept
    for freed in (0, 1):
        job = opened.pending.take(grown=False)
        assert len(job.freed) == freed
        opened.writing.write(job)
        opened.pending.settle(job)


def test_a_batch_that_ends_before_a_full_disk_took_its_rows_holds_up_nothing(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending, "JOB_BYTES", 1)
    opened = open_disk(disk, site="here")
    disk.full_for_rows = True
    append(opened)
    kept = append(opened)
    opened.pending.record(BatchSealed(NAME, CONSUMER, 1, "batch", (Piece(kept, 0, 3),)))
    opened.pending.record(BatchEnded(NAME, CONSUMER, 1, "batch", "released"))
    run_job(opened)
    assert opened.pending.problem is not None
    disk.full_for_rows = False
    for _ in range(3):
        run_job(opened)
    assert opened.pending.durable
    assert opened.pending.is_empty


def run_job(opened: Opened) -> None:
    job = opened.pending.take(grown=False)
    opened.writing.write(job)
    opened.pending.settle(job)


def test_a_start_removes_rows_once_what_ended_their_batch_is_safe(disk: Disk) -> None:
    """Seed 92 with many power cuts, repeated requests and killed drivers found it."""
    opened = open_disk(disk, site="here")
    kept = append(opened)
    opened.pending.record(SubscriptionHeld(NAME, ordering=False, exactly_once=False))
    noted = ConsumerNoted(NAME, CONSUMER, Reader(1, "r"), True, True, False, False, 0, {}, 0.0)
    opened.pending.record(noted)
    opened.pending.record(BatchSealed(NAME, CONSUMER, 1, "batch", (Piece(kept, 0, 3),)))
    run_job(opened)
    opened.pending.record(BatchEnded(NAME, CONSUMER, 1, "batch", "acknowledged"))
    disk.kill_in = 2  # written: the rows' sync, the decision; not its sync
    with pytest.raises(Killed):
        run_job(opened)
    disk.kill_in, disk.sync_fails = None, True
    with pytest.raises(StoreFailed):
        open_disk(disk, site="here")
    disk.sync_fails = False
    found = open_disk(disk, site="here").found
    damage = [b.damage for _, consumers in found.subscriptions for c in consumers for b in c.batches]
    assert damage in ([], [None]), "ended, or there with its rows"
