"""How much of what Spark could take does it get, from a Pub/Sub that is never the limit?

Firehose → daemon → `pubsub` source → Spark's noop sink, acknowledged batch by batch, beside the same rows yielded from
memory by a Python source. Both have the same Spark on all cores; the firehose and the daemon take theirs from it.
"""

from __future__ import annotations

import functools
import json

from benchmarks.children import Child, Children, children
from benchmarks.daemon import daemon
from benchmarks.firehose import figures
from benchmarks.harness import Goal, Report, Row, Spread, main, middle, take_turns
from benchmarks.messages import ACK_ID_CHARACTERS, Shape
from benchmarks.spark_session import TASK_THREADS

GOALS = {"vs_spark_limit_1kb": Goal(0.35)}
SHAPES = (Shape(1024, 1000), Shape(100, 1000))
MEMORY_BATCH_BYTES = 256 << 20
"""Data bytes of a batch from memory: large enough for a batch's fixed cost not to show, small enough for a second."""

LEAST_S = 5.0
"""Some batches, each of which takes most of a second."""


def run(seconds: float) -> Report:
    """Each arm at both sizes, for `seconds` after a warm-up; twice and in turns when there is time."""
    report = Report("end_to_end", goals=GOALS)
    rounds = 1 if seconds < 2 * LEAST_S else 3
    each = max(seconds / rounds, LEAST_S)
    with children() as owned:
        for shape in SHAPES:
            arms = {
                "spark from memory": functools.partial(from_memory, owned, shape, each),
                "penstock": functools.partial(penstock, owned, shape, each),
            }
            rate = {}
            for arm, samples in take_turns(arms, rounds).items():
                row = middle(samples, "messages_per_s")
                rate[arm] = row["messages_per_s"]
                spread = Spread.of([sample["messages_per_s"] for sample in samples])
                report.add(arm=arm, data_bytes=shape.data_bytes, **row, range=spread.range)
            name = "1kb" if shape.data_bytes == 1024 else f"{shape.data_bytes}b"
            report.ratios[f"vs_spark_limit_{name}"] = rate["penstock"] / rate["spark from memory"]
    report.notes.append("cpu: seconds of CPU per GB of message data, by process; ms: of a batch, by Spark's own phases")
    return report


def penstock(owned: Children, shape: Shape, seconds: float) -> Row:
    """The whole way, with default settings on both sides."""
    with owned.running("firehose", "benchmarks.firehose", "--prepare", shape.subscription) as firehose:
        port = firehose.expect("ready")
        with daemon(owned, port, shape.subscription) as (process, address):
            before = figures(port)
            options = (f"subscriptionId={shape.subscription}", f"daemons={address}")
            row = _query(owned, shape, seconds, "pubsub", *options, firehose=firehose, daemon=process)
            after = figures(port)
    acked = (after.get("ack_bytes", 0) - before.get("ack_bytes", 0)) / (ACK_ID_CHARACTERS + 3)
    if acked < row["messages_per_s"] * seconds / 2:
        raise AssertionError(f"rows went through Spark, but only {acked:.0f} were acknowledged")
    return row


def from_memory(owned: Children, shape: Shape, seconds: float) -> Row:
    """Spark alone."""
    rows = MEMORY_BATCH_BYTES // max(shape.data_bytes, 256)
    options = (f"shape={shape.subscription}", f"rows={rows}", f"slices={TASK_THREADS}")
    return _query(owned, shape, seconds, "bench_memory", *options)


def _query(owned: Children, shape: Shape, seconds: float, source: str, *options: str, **others: Child) -> Row:
    arguments = ("benchmarks.spark_query", source, *options, "--seconds", str(seconds))
    with owned.running("spark", *arguments) as spark:
        spark.expect("begin")
        before = _cpu(spark, others)
        found = spark.expect("end")
        used = {name: cpu - before[name] for name, cpu in _cpu(spark, others).items()}
    gigabytes = found["rows"] * shape.data_bytes / 1e9
    cpu = {name: round(cpu_s / gigabytes, 2) for name, cpu_s in used.items()}
    phases = {name: found["ms_per_batch"].get(name, 0) for name in ("triggerExecution", "addBatch", "latestOffset")}
    return {
        "messages_per_s": round(found["rows"] / found["seconds"]),
        "data_mb_per_s": round(gigabytes * 1000 / found["seconds"]),
        "rows_per_batch": found["rows"] // found["batches"],
        "cpu_s_per_gb": json.dumps(cpu).strip("{}").replace('"', ""),
        "ms_per_batch": json.dumps(phases).strip("{}").replace('"', ""),
    }


def _cpu(spark: Child, others: dict[str, Child]) -> dict[str, float]:
    return {**{name: child.cpu_s() for name, child in others.items()}, **spark.tree_cpu_s()}


if __name__ == "__main__":
    main(run, seconds=10)
