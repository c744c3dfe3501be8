"""A job that could not be written is told of, and nothing of it stays behind."""

from __future__ import annotations

import gc
import random
import weakref

import pytest
from tests.reservoir.making import NAME, messages
from tests.simulation.disk import Disk

from penstock.reservoir.kept import Copy, Kept
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
