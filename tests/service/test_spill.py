"""A daemon that holds more than its memory: sealed batches wait for their readers in temporary files."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.service.conftest import NAME, Daemon, Site, until

from penstock.client import NodeClient
from penstock.contract import PROTOCOL_VERSION as V
from penstock.contract import Reader
from penstock.contract.actions import (
    CommitRequest,
    FinishedEpoch,
    OpenReply,
    OpenRequest,
    PlanRequest,
    SealReply,
    SealRequest,
    StatusRequest,
)
from penstock.errors import OpenAgain

LIMIT_MB = 32
ROWS, ROW_BYTES = 10_000, 9_000
"""Almost three times the memory limit."""


class Slow:
    """A reader that seals one epoch after the other and reads none before it is told to."""

    def __init__(self, daemon: Daemon, node: NodeClient) -> None:
        self.daemon, self.node = daemon, node
        self.reader = Reader(int(time.time() * 1000), "r")
        self.batches: dict[int, SealReply] = {}
        self.open()

    def open(self) -> OpenReply:
        request = OpenRequest(v=V, consumer="c", reader=self.reader, subscription=NAME, after=len(self.batches))
        reply: OpenReply = self.node.call("open", request)
        return reply

    def seal(self) -> bool:
        """Whether there was anything."""
        epoch = len(self.batches) + 1
        request = SealRequest(v=V, consumer="c", reader=self.reader, epoch=epoch, after=epoch - 1)
        try:
            reply: SealReply = self.node.call("seal", request)
        except OpenAgain:  # the daemon was starved of the processor for seconds, and noticed
            self.open()
            return False
        if reply.batch is not None:
            self.batches[epoch] = reply
        return reply.batch is not None

    def hold_all(self, rows: int) -> None:
        """Seal until so many rows are held; each batch is in files before the next one is sealed."""

        def sealed() -> bool:
            figures = self.daemon.figures()
            assert figures["used_bytes"] < LIMIT_MB << 20
            if figures["batches_spilled"] == len(self.batches):
                self.seal()
            return sum(batch.rows for batch in self.batches.values()) == rows

        try:
            until(sealed, 60)
        except TimeoutError:
            raise AssertionError(self.daemon.figures()) from None
        until(lambda: self.daemon.figures()["batches_spilled"] == len(self.batches), 20)

    def read(self, epoch: int) -> list[bytes]:
        request = PlanRequest(
            v=V, consumer="c", reader=self.reader, epoch=epoch, batch=self.batches[epoch].batch or "", slices=3
        )
        slices = self.node.call("plan", request).slices
        batches = [batch for one in slices for batch in self.node.read(one.ticket)]
        return [data for batch in batches for data in batch.column("data").to_pylist()]

    def commit(self, epoch: int) -> str:
        name = self.node.call("status", StatusRequest(v=V)).node
        named = FinishedEpoch(epoch=epoch, nodes={name: self.batches[epoch].batch or ""})
        request = CommitRequest(v=V, consumer="c", reader=self.reader, epochs=(named,))
        state: str = self.node.call("commit", request).epochs[epoch]
        return state


def anonymous_mb(daemon: Daemon) -> float:
    """Memory of the process that is no file's."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1024


def open_files(daemon: Daemon, folder: Path) -> list[str]:
    """Files in a folder that the process has open, with or without a name."""
    names = [str(link.readlink()) for link in Path(f"/proc/{daemon.process.pid}/fd").iterdir() if link.is_symlink()]
    return [name for name in names if name.startswith(str(folder))]


def serve(site: Site, folder: Path) -> Daemon:
    folder.mkdir()
    return site.serve(
        *("--memory-limit-mb", str(LIMIT_MB), "--set", "reservoir.spill_above=0", "--set", f"spill_dir={folder}"),
        *("--set", "pubsub.max_streams=1"),
    )


def test_a_backlog_of_sealed_batches_larger_than_the_memory_is_held_served_and_acknowledged(
    site: Site, tmp_path: Path
) -> None:
    daemon = serve(site, tmp_path / "spill")
    before_mb = anonymous_mb(daemon)
    site.publish(ROWS, data_bytes=ROW_BYTES)
    with NodeClient(daemon.endpoint) as node:
        slow = Slow(daemon, node)
        slow.hold_all(ROWS)
        assert daemon.figures()["spilled_bytes"] > 2 * LIMIT_MB << 20
        assert open_files(daemon, tmp_path / "spill")
        assert not list((tmp_path / "spill").iterdir()), "a killed daemon would leave nothing"
        until(lambda: anonymous_mb(daemon) < before_mb + LIMIT_MB, 60)
        assert f'penstock_spilled_bytes{{subscription="{NAME}"}}' in daemon.http("/metrics")[1]
        got = []
        for epoch in slow.batches:
            got += slow.read(epoch)
            slow.commit(epoch)
        assert sorted(got) == sorted(b"%d" % n + b"x" * ROW_BYTES for n in range(ROWS))
    until(lambda: site.statistics()["remaining"] == 0)
    until(lambda: not open_files(daemon, tmp_path / "spill"))


def test_a_killed_daemon_leaves_no_file(site: Site, tmp_path: Path) -> None:
    daemon = serve(site, tmp_path / "spill")
    site.publish(2000, data_bytes=ROW_BYTES)
    with NodeClient(daemon.endpoint) as node:
        slow = Slow(daemon, node)
        until(lambda: daemon.figures()["buffered"] >= 1000)
        until(slow.seal)
        until(lambda: daemon.figures()["batches_spilled"] == 1)
    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait()
    assert not list((tmp_path / "spill").iterdir())


def test_what_cannot_be_written_stays_in_memory_and_status_says_why(site: Site, tmp_path: Path) -> None:
    daemon = serve(site, tmp_path / "spill")
    (tmp_path / "spill").rmdir()
    site.publish(2000, data_bytes=ROW_BYTES)
    with NodeClient(daemon.endpoint) as node:
        slow = Slow(daemon, node)
        until(lambda: daemon.figures()["buffered"] >= 500)
        until(slow.seal)
        problem = until(lambda: (node.call("status", StatusRequest(v=V)).spill or {}).get("problem"))
        assert "No such file" in problem
        assert "Make room there, or name a larger folder" in problem
        shown = subprocess.run(
            [sys.executable, "-m", "penstock", "status", "--daemon", daemon.endpoint], capture_output=True, text=True
        )
        assert "sealed batches stay in memory" in " ".join(shown.stdout.split()), shown
        assert daemon.figures()["spilled_bytes"] == 0
        assert len(slow.read(1)) == slow.batches[1].rows
        assert "penstock_spill_full 1.0" in daemon.http("/metrics")[1]
        assert "penstock_spills_failed_total 1.0" in daemon.http("/metrics")[1]
