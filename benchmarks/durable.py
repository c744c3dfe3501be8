"""What do batches that outlive the daemon cost: with a data_dir on tmpfs, and on a disk with fsync?

The arms are one daemon with memory only, one with its folder in /dev/shm, and one with a folder on the disk of the
system's temporary files. Each seals every 100 ms and commits, so that every message is written, acknowledged and its
file removed again. Seal latency is that of the call, and counts seals that had rows.
"""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.children import Child, Children, Meter, children
from benchmarks.daemon import Driver, daemon
from benchmarks.harness import Goal, Report, Row, Spread, main, middle, take_turns
from benchmarks.messages import Shape
from penstock.client import NodeClient
from penstock.contract import PROTOCOL_VERSION
from penstock.contract.actions import StatusRequest

GOALS = {"tmpfs_vs_memory_ingest": Goal(0.7)}
SHAPE = Shape(1024, 1000)
LEAST_S = 2.0
MOST_ROUNDS = 3
WARM_UP_S = 1.0
SEAL_EVERY_S = 0.1
SHARED_MEMORY = Path("/dev/shm")


def run(seconds: float) -> Report:
    """All arms, `seconds` for each, in turns."""
    report = Report("durable", goals=GOALS)
    rounds = max(1, min(MOST_ROUNDS, int(seconds / LEAST_S)))
    each = max(seconds / rounds, 1.0)
    with (
        children() as owned,
        tempfile.TemporaryDirectory(prefix="penstock-bench-", dir=SHARED_MEMORY) as memory,
        tempfile.TemporaryDirectory(prefix="penstock-bench-") as disk,
        owned.running("firehose", "benchmarks.firehose", "--prepare", SHAPE.subscription) as firehose,
    ):
        port = firehose.expect("ready")
        arms = {
            name: functools.partial(ingest, owned, firehose, port, each, folder)
            for name, folder in {"memory": None, "tmpfs": memory, "disk, fsync": disk}.items()
        }
        rate = {}
        for arm, samples in take_turns(arms, rounds).items():
            row = middle(samples, "messages_per_s")
            rate[arm] = row["messages_per_s"]
            spread = Spread.of([sample["messages_per_s"] for sample in samples])
            report.add(arm=arm, data_bytes=SHAPE.data_bytes, **row, range=spread.range)
    report.ratios["tmpfs_vs_memory_ingest"] = rate["tmpfs"] / rate["memory"]
    report.ratios["disk_vs_memory_ingest"] = rate["disk, fsync"] / rate["memory"]
    return report


def ingest(owned: Children, firehose: Child, port: int, seconds: float, folder: str | None) -> Row:
    """A daemon with a driver that seals and commits."""
    flags = () if folder is None else ("--data-dir", tempfile.mkdtemp(dir=folder))
    with daemon(owned, port, SHAPE.subscription, *flags) as (process, address), NodeClient(address) as node:
        driver = Driver(node, SHAPE.subscription)
        driver.open()
        driver.wait_rows(10)
        _take(driver, WARM_UP_S)
        before = _written(node)
        meter = Meter(firehose=firehose, arm=process)
        messages, latencies = _take(driver, seconds)
        took, cores = meter.stop()
        written = _written(node) - before
    rate = messages / took
    return {
        "messages_per_s": round(rate),
        "data_mb_per_s": round(rate * SHAPE.data_bytes / 1e6),
        "seal_p50_ms": round(statistics.median(latencies) * 1e3, 2),
        "seal_max_ms": round(max(latencies) * 1e3, 2),
        "written_mb_per_s": round(written / took / 1e6),
        "written_per_data": round(written / max(messages * SHAPE.data_bytes, 1), 2),
        **cores,
    }


def _written(node: NodeClient) -> int:
    storage = node.call("status", StatusRequest(v=PROTOCOL_VERSION)).storage
    return storage["segment_bytes_written"] + storage["journal_bytes_written"] if storage else 0


def _take(driver: Driver, seconds: float) -> tuple[int, list[float]]:
    """Seal and commit for a while; the rows sealed, and how long each seal with rows took."""
    rows, latencies, end = 0, [], time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        sealed = driver.seal()
        if sealed.batch is not None:
            latencies.append(time.perf_counter() - start)
            rows += sealed.rows
            driver.commit()
        time.sleep(max(0.0, SEAL_EVERY_S - (time.perf_counter() - start)))
    return rows, latencies


if __name__ == "__main__":
    main(run, seconds=5)
