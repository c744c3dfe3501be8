"""A daemon with `data_dir`, killed at any moment and started again: the same node, batches and decisions."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.service.conftest import NAME, Daemon, Site, until

from penstock.client import NodeClient
from penstock.contract import PROTOCOL_VERSION as V
from penstock.contract import Reader
from penstock.contract.actions import (
    AliveRequest,
    CommitRequest,
    ExcludeRequest,
    FinishedEpoch,
    OpenReply,
    OpenRequest,
    PlanRequest,
    SealReply,
    SealRequest,
    StatusRequest,
)
from penstock.contract.body import Request
from penstock.errors import BatchGone, DiskFull, OpenAgain, ReaderFenced

SHORT_LEASES = ("--set", "pubsub.ack_deadline_s=10")
"""What a killed daemon had not sealed comes again this soon."""


class Query:
    """One reader of the bare protocol."""

    def __init__(self, generation: int = 1) -> None:
        self.reader = Reader(int(time.time() * 1000) + generation, f"r{generation}")
        self.after = 0

    def open(self, daemon: Daemon) -> OpenReply:
        with NodeClient(daemon.endpoint) as node:
            request = OpenRequest(v=V, consumer="c", reader=self.reader, subscription=NAME, after=self.after)
            reply: OpenReply = node.call("open", request)
        return reply

    def call(self, daemon: Daemon, node: NodeClient, action: str, request: Request) -> Any:
        """One action; a daemon that was starved of the processor for seconds noticed it, and is opened again."""
        try:
            return node.call(action, request)
        except OpenAgain:
            self.open(daemon)
            return node.call(action, request)

    def seal(self, daemon: Daemon, rows: int) -> SealReply:
        """A batch of so many rows of the next epoch."""
        until(lambda: daemon.figures()["buffered"] >= rows)
        with NodeClient(daemon.endpoint) as node:
            request = SealRequest(
                v=V, consumer="c", reader=self.reader, epoch=self.after + 1, after=self.after, max_rows=rows
            )
            reply: SealReply = self.call(daemon, node, "seal", request)
        assert reply.rows == rows
        return reply

    def read(self, daemon: Daemon, batch: str, slices: int = 3) -> list[bytes]:
        with NodeClient(daemon.endpoint) as node:
            ask = PlanRequest(v=V, consumer="c", reader=self.reader, epoch=self.after + 1, batch=batch, slices=slices)
            planned = self.call(daemon, node, "plan", ask).slices
            parts = [part.column("data").to_pylist() for one in planned for part in node.read(one.ticket)]
        return [data for part in parts for data in part]

    def commit(self, daemon: Daemon, name: str, batch: str) -> str:
        finished = FinishedEpoch(epoch=self.after + 1, nodes={name: batch})
        with NodeClient(daemon.endpoint) as node:
            request = CommitRequest(v=V, consumer="c", reader=self.reader, epochs=(finished,))
            reply = self.call(daemon, node, "commit", request)
        state: str = reply.epochs[finished.epoch]
        return state


def ledger_adds_up(daemon: Daemon) -> bool:
    found = daemon.figures()
    ends = ("buffered", "in_batches", "acknowledged", "acks_lost", "released", "lapsed", "known")
    return bool(found["received"] + found["recovered"] == sum(found[end] for end in ends))


def kill_and_restart(site: Site, daemon: Daemon, folder: Path) -> Daemon:
    daemon.end(signal.SIGKILL)
    return site.serve("--data-dir", str(folder), *SHORT_LEASES, port=daemon.port)


def test_a_killed_daemon_comes_back_with_the_same_batch_and_the_commit_acknowledges_it(
    site: Site, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    daemon = site.serve("--data-dir", str(folder))
    query = Query()
    name = query.open(daemon).node
    site.publish(1000)
    batch = query.seal(daemon, 700).batch or ""
    rows = query.read(daemon, batch)

    daemon = kill_and_restart(site, daemon, folder)
    with NodeClient(daemon.endpoint) as node, pytest.raises(OpenAgain):
        node.call("alive", AliveRequest(v=V, consumer="c", reader=query.reader))
    again = query.open(daemon)
    assert (again.node, again.held) == (name, {1: batch})
    assert query.read(daemon, batch) == rows
    assert query.commit(daemon, name, batch) == "pending"
    until(lambda: query.commit(daemon, name, batch) == "acked")
    assert site.statistics()["remaining"] == 300
    assert daemon.figures()["recovered"] == 700
    assert ledger_adds_up(daemon)


def test_acks_that_were_not_confirmed_are_repeated_after_a_restart(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    daemon = site.serve("--data-dir", str(folder))
    query = Query()
    name = query.open(daemon).node
    site.publish(500)
    batch = query.seal(daemon, 500).batch or ""
    site.faults.fail("Acknowledge", "UNAVAILABLE", times=1000)
    assert query.commit(daemon, name, batch) == "pending"
    daemon.end(signal.SIGKILL)
    assert site.statistics()["remaining"] == 500

    site.faults.clear()
    daemon = site.serve("--data-dir", str(folder), port=daemon.port)
    until(lambda: site.statistics()["remaining"] == 0)
    until(lambda: daemon.figures()["acknowledged"] == 500)
    query.open(daemon)
    assert query.commit(daemon, name, batch) == "acked"


def test_a_daemon_killed_while_it_pulls_loses_nothing(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    daemon = site.serve("--data-dir", str(folder), *SHORT_LEASES)
    query = Query()
    name = query.open(daemon).node
    site.publish(3000)
    until(lambda: daemon.figures()["received"] > 0)
    daemon = kill_and_restart(site, daemon, folder)
    seen: set[bytes] = set()
    query.open(daemon)
    end = time.monotonic() + 60
    while len(seen) < 3000 and time.monotonic() < end:
        until(lambda: daemon.figures()["buffered"] > 0, 30)
        batch = query.seal(daemon, 1).batch or ""
        seen.update(query.read(daemon, batch))
        query.commit(daemon, name, batch)
        query.after += 1
        with NodeClient(daemon.endpoint) as node:
            request = SealRequest(v=V, consumer="c", reader=query.reader, epoch=query.after + 1, after=query.after)
            big = query.call(daemon, node, "seal", request)
        if big.batch:
            seen.update(query.read(daemon, big.batch))
            query.commit(daemon, name, big.batch)
            query.after += 1
    assert len(seen) == 3000
    until(lambda: site.statistics()["remaining"] == 0)


def test_a_fence_survives_a_restart(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    daemon = site.serve("--data-dir", str(folder))
    old, new = Query(1), Query(1000)
    old.open(daemon)
    new.open(daemon)
    daemon = kill_and_restart(site, daemon, folder)
    with pytest.raises(ReaderFenced):
        old.open(daemon)
    with NodeClient(daemon.endpoint) as node:
        assert node.call("status", StatusRequest(v=V, consumer="c")).generation == new.reader.generation


def test_an_excluded_batch_is_given_back_by_the_commit_after_a_kill(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    daemon = site.serve("--data-dir", str(folder))
    query = Query()
    name = query.open(daemon).node
    site.publish(100)
    batch = query.seal(daemon, 100).batch or ""
    with NodeClient(daemon.endpoint) as node:
        request = ExcludeRequest(v=V, consumer="c", reader=query.reader, epoch=1, batches=("of another", batch))
        query.call(daemon, node, "exclude", request)
    assert "batches excluded" in daemon.log()

    daemon = kill_and_restart(site, daemon, folder)
    again = query.open(daemon)
    assert (again.held, set(again.excluded)) == ({1: batch}, {"of another", batch})
    assert query.commit(daemon, name, batch) == "released"
    query.after = 1
    assert query.open(daemon).excluded == ()
    until(lambda: site.statistics()["nacked"] == 100)
    assert site.statistics()["acked"] == 0
    assert ledger_adds_up(daemon)


def test_an_emptied_data_dir_is_another_node_of_the_same_site(site: Site, tmp_path: Path) -> None:
    daemon = site.serve("--data-dir", str(tmp_path / "data"))
    first = Query().open(daemon).node
    daemon.end(signal.SIGKILL)
    (tmp_path / "data").rename(tmp_path / "old")
    daemon = site.serve("--data-dir", str(tmp_path / "data"), port=daemon.port)
    second = Query(2).open(daemon).node
    assert first != second
    assert first.rpartition("-")[0] == second.rpartition("-")[0]


def test_rows_with_a_flipped_byte_are_never_served_or_acknowledged(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    daemon = site.serve("--data-dir", str(folder))
    query = Query()
    name = query.open(daemon).node
    site.publish(100)
    batch = query.seal(daemon, 100).batch or ""
    daemon.end(signal.SIGKILL)
    (segment,) = (folder / "segments").glob("*.seg")
    raw = bytearray(segment.read_bytes())
    raw[1000] ^= 1
    segment.write_bytes(raw)
    daemon = site.serve("--data-dir", str(folder), port=daemon.port)
    assert query.open(daemon).held == {}
    with pytest.raises(BatchGone, match="checksum"):
        query.read(daemon, batch)
    assert query.commit(daemon, name, batch) == "gone"
    assert site.statistics()["acked"] == 0
    assert "batch lost" in daemon.log()


def test_a_second_daemon_on_the_same_folder_is_refused(site: Site, tmp_path: Path) -> None:
    daemon = site.serve("--data-dir", str(tmp_path / "data"))
    other = site.penstock(
        "other.log",
        *("serve", "--listen", "grpc://127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir", str(tmp_path / "data")),
    )
    assert other.wait(20) == 2
    said = (tmp_path / "other.log").read_text()
    assert f"PID {daemon.process.pid}" in said
    assert str(tmp_path / "data") in said


def test_a_drain_keeps_what_is_sealed_for_the_next_start(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    daemon = site.serve("--data-dir", str(folder), "--drain-timeout-s", "1")
    query = Query()
    query.open(daemon)
    site.publish(100)
    batch = query.seal(daemon, 60).batch or ""
    rows = query.read(daemon, batch)
    assert daemon.end() == 0
    assert site.statistics()["nacked"] == 40
    daemon = site.serve("--data-dir", str(folder), port=daemon.port)
    assert query.open(daemon).held == {1: batch}
    assert query.read(daemon, batch) == rows


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """24 MiB of tmpfs, where the tests may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting needs a privilege")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_said_and_the_query_goes_on_when_there_is_room(site: Site, small_disk: Path) -> None:
    daemon = site.serve("--data-dir", str(small_disk))
    query = Query()
    name = query.open(daemon).node
    site.publish(2000, data_bytes=2000)
    batch = query.seal(daemon, 2000).batch or ""
    (small_disk / "somebody else's").write_bytes(b"x" * (17 << 20))
    site.publish(3000, data_bytes=2000)
    until(lambda: daemon.figures()["paused"] == "disk")
    query.after = 1
    with pytest.raises(DiskFull, match=str(small_disk)):
        query.seal(daemon, 1)
    status, metrics = daemon.http("/metrics")
    assert status == 200
    assert "penstock_storage_full 1.0" in metrics

    query.after = 0
    assert query.commit(daemon, name, batch) in {"pending", "acked"}, "what is stored is still committed"
    (small_disk / "somebody else's").unlink()
    until(lambda: daemon.figures()["paused"] is None)
    query.after = 1
    batch = query.seal(daemon, 2000).batch or ""
    assert len(query.read(daemon, batch)) == 2000
    assert query.commit(daemon, name, batch) in {"pending", "acked"}
    assert ledger_adds_up(daemon)
