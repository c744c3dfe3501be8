"""How fast are messages published, beside Google's Python client, and what does that cost a Spark job?

A server that confirms and forgets (`firehose`). Rows in memory → `penstock.Publisher` → daemon → server, every message
confirmed; Google's client on the same server. Then the same rows from Spark to the daemon's server and to Spark's noop
sink, which looks at none of them and needs no Python.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from benchmarks.children import Child, Children, Meter, children
from benchmarks.daemon import daemon
from benchmarks.firehose import figures
from benchmarks.harness import LONG_S, Goal, Report, Row, Spread, main, middle, take_turns
from penstock.client import Publisher

GOALS = {"vs_google_python_1kb": Goal(12)}
TOPIC = "projects/bench/topics/topic"
BATCH_ROWS = 10_000
"""As Spark's `spark.sql.execution.arrow.maxRecordsPerBatch`."""
LEAST_S = 2.0
MOST_ROUNDS = 3
WARM_UP_S = 1.0


def run(seconds: float) -> Report:
    """Each arm `seconds` for each size, in turns."""
    report = Report("publish", goals=GOALS)
    rounds = max(1, min(MOST_ROUNDS, int(seconds / LEAST_S)))
    each = max(seconds / rounds, 1.0)
    rate: dict[tuple[str, int], float] = {}
    per_cpu_s: dict[tuple[str, int], float] = {}
    with children() as owned, owned.running("firehose", "benchmarks.firehose") as server:
        port = server.expect("ready")
        for size in (1024, 100):
            arms = {
                "penstock": functools.partial(penstock, owned, server, port, size, each),
                "google python": functools.partial(google, owned, server, port, size, each),
            }
            if size == 100 and seconds < LONG_S:
                del arms["google python"]
            for arm, samples in take_turns(arms, rounds).items():
                row = middle(samples, "messages_per_s")
                rate[arm, size] = row["messages_per_s"]
                per_cpu_s[arm, size] = statistics.median(sample["messages_per_cpu_s"] for sample in samples)
                spread = Spread.of([sample["messages_per_s"] for sample in samples])
                report.add(arm=arm, data_bytes=size, **row, range=spread.range)
            for prefix, of in (("", rate), ("per_cpu_", per_cpu_s)) if "google python" in arms else ():
                name = f"{prefix}vs_google_python_{'1kb' if size == 1024 else '100b'}"
                report.ratios[name] = of["penstock", size] / of["google python", size]
        arms = {
            "spark to pubsub": functools.partial(spark_to_pubsub, owned, server, port, each),
            "spark to noop": functools.partial(spark_to, owned, "noop", [], each),
        }
        for arm, samples in take_turns(arms, 1).items():
            row = middle(samples, "messages_per_s")
            rate[arm, 1024] = row["messages_per_s"]
            report.add(arm=arm, data_bytes=1024, **row)
        report.ratios["spark_vs_noop_1kb"] = rate["spark to pubsub", 1024] / rate["spark to noop", 1024]
    report.notes.append("per_cpu_…: messages per CPU second of the publishing process (daemon; client)")
    return report


def penstock(owned: Children, server: Child, port: int, size: int, seconds: float) -> Row:
    """Through a daemon; the server must have counted as many."""
    batch = rows(size)
    with daemon(owned, port, "projects/bench/subscriptions/none") as (process, address):
        with Publisher(TOPIC, endpoint=address) as publisher:
            publisher.publish(repeated(batch, WARM_UP_S))
            before = figures(port).get("published", 0)
            meter = Meter(server=server, arm=process)
            reply = publisher.publish(repeated(batch, seconds))
            took, cores = meter.stop()
        if figures(port)["published"] - before != reply.messages:
            raise RuntimeError(f"{reply.messages} confirmed, {figures(port)['published'] - before} arrived")
    return _row(size, reply.messages, took, cores)


def google(owned: Children, server: Child, port: int, size: int, seconds: float) -> Row:
    """Its own batching."""
    arguments = ["benchmarks.google_publish", "--topic", TOPIC, "--data-bytes", str(size), "--seconds", str(seconds)]
    with owned.running("peer", *arguments, PUBSUB_EMULATOR_HOST=f"127.0.0.1:{port}") as peer:
        peer.expect("begin")
        meter = Meter(server=server, arm=peer)
        found = peer.expect("end")
        _, cores = meter.stop()
    return _row(size, found["messages"], found["seconds"], cores)


def spark_to_pubsub(owned: Children, server: Child, port: int, seconds: float) -> Row:
    """Two tasks into one daemon."""
    with daemon(owned, port, "projects/bench/subscriptions/none") as (process, address):
        return spark_to(owned, "pubsub", [f"topicId={TOPIC}", f"daemons={address}"], seconds, server, process)


def spark_to(owned: Children, sink: str, options: list[str], seconds: float, *beside: Child) -> Row:
    """Whole batch writes."""
    arguments = ["benchmarks.spark_write", "--format", sink, "--seconds", str(seconds)]
    for option in options:
        arguments += ["--option", option]
    with owned.running("spark", *arguments) as spark:
        spark.expect("begin")
        before = sum(spark.tree_cpu_s().values()) + sum(child.cpu_s() for child in beside)
        found = spark.expect("end")
        used = sum(spark.tree_cpu_s().values()) + sum(child.cpu_s() for child in beside) - before
    rate = found["rows"] / found["seconds"]
    return {
        "messages_per_s": round(rate),
        "data_mb_per_s": round(rate * 1024 / 1e6),
        "all_cores": round(used / found["seconds"], 2),
    }


def rows(size: int) -> pa.RecordBatch:
    """As many as Spark gives at a time."""
    octets = pa.py_buffer(np.random.default_rng(0).integers(0, 256, BATCH_ROWS * size, np.uint8))
    offsets = pa.py_buffer(np.arange(BATCH_ROWS + 1, dtype=np.int32) * np.int32(size))
    data = pa.Array.from_buffers(pa.binary(), BATCH_ROWS, [None, offsets, octets])
    return pa.RecordBatch.from_arrays([data], names=["data"])


def repeated(batch: pa.RecordBatch, seconds: float) -> Iterator[pa.RecordBatch]:
    """The same rows for a while."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        yield batch


def _row(size: int, messages: int, seconds: float, cores: dict[str, float]) -> Row:
    rate = messages / seconds
    per_cpu_s = round(rate / max(cores["arm_cores"], 0.01))
    return {
        "messages_per_s": round(rate),
        "messages_per_cpu_s": per_cpu_s,
        "data_mb_per_s": round(rate * size / 1e6),
        **cores,
    }


if __name__ == "__main__":
    main(run, seconds=6)
