"""How fast do messages reach Spark, beside Spark's own limit?

firehose → daemon → Spark, everything on, into Spark's noop sink; beside it the same rows yielded from memory by a
Python source (`floor_source`), in batches of the same size. Spark, its options and its slices are the same. The
daemon's side has a server and a daemon on the same cores, the other has nothing: the ratio says what all of Pub/Sub's
work costs.
"""

from __future__ import annotations

import functools
import statistics

from benchmarks.children import Child, Children, children
from benchmarks.daemon import daemon
from benchmarks.harness import LONG_S, Goal, Report, Row, Spread, main, middle, take_turns
from benchmarks.messages import Shape

GOALS = {"vs_spark_limit_1kb": Goal(0.35)}
SHAPES = {"1kb": Shape(1024, 1000), "100b": Shape(100, 1000)}
SLICES = 2
FIRST_BATCH_ROWS = {"1kb": 150_000, "100b": 600_000}
"""For the limit's first turn only: later ones take the batch size that the daemon's turn had."""


def run(seconds: float) -> Report:
    """Both sides in turns, at least `seconds` of whole batches each."""
    report = Report("end_to_end", goals=GOALS)
    rounds = 1 if seconds < 8 else 2
    with children() as owned:
        for name, shape in SHAPES.items():
            if name != "1kb" and seconds < LONG_S:
                continue
            batch_rows = [FIRST_BATCH_ROWS[name]]
            arms = {
                "penstock": functools.partial(penstock, owned, shape, seconds / rounds, batch_rows),
                "spark limit": functools.partial(limit, owned, shape, seconds / rounds, batch_rows),
            }
            rate, cpu = {}, {}
            for arm, samples in take_turns(arms, rounds).items():
                row = middle(samples, "rows_per_s")
                rate[arm] = row["rows_per_s"]
                cpu[arm] = statistics.median(sample["cpu_s_per_gb"] for sample in samples)
                spread = Spread.of([sample["rows_per_s"] for sample in samples])
                report.add(arm=arm, data_bytes=shape.data_bytes, **row, range=spread.range)
            report.ratios[f"vs_spark_limit_{name}"] = rate["penstock"] / rate["spark limit"]
            report.ratios[f"cpu_vs_spark_limit_{name}"] = cpu["spark limit"] / cpu["penstock"]
    report.notes.append("cpu_vs_…: by CPU seconds per GB of all processes, which others' load changes less")
    return report


def penstock(owned: Children, shape: Shape, seconds: float, batch_rows: list[int]) -> Row:
    """The whole way. Leaves the size of its batches in `batch_rows`."""
    with owned.running("firehose", "benchmarks.firehose", "--prepare", shape.subscription) as firehose:
        port = firehose.expect("ready")
        with daemon(owned, port, shape.subscription) as (process, address):
            options = [f"subscriptionId={shape.subscription}", f"daemons={address}", f"numPartitions={SLICES}"]
            row = _query(owned, "pubsub", options, shape, seconds, firehose=firehose, daemon=process)
    batch_rows[:] = [row["rows_per_batch"]]
    return row


def limit(owned: Children, shape: Shape, seconds: float, batch_rows: list[int]) -> Row:
    """Rows from memory."""
    options = [f"subscription={shape.subscription}", f"rows={batch_rows[0]}", f"slices={SLICES}"]
    return _query(owned, "from_memory", options, shape, seconds)


def _query(owned: Children, source: str, options: list[str], shape: Shape, seconds: float, **beside: Child) -> Row:
    arguments = ["benchmarks.spark_query", "throughput", "--format", source, "--seconds", str(seconds)]
    arguments += ["--checkpoint", owned.new_folder()]
    for option in options:
        arguments += ["--option", option]
    with owned.running("spark", *arguments) as spark:
        spark.expect("begin")
        before = spark.tree_cpu_s() | {name: child.cpu_s() for name, child in beside.items()}
        found = spark.expect("end")
        after = spark.tree_cpu_s() | {name: child.cpu_s() for name, child in beside.items()}
    gigabytes = found["rows"] * shape.data_bytes / 1e9
    cpu = {name: (after[name] - before[name]) / gigabytes for name in before}
    return {
        "rows_per_s": round(found["rows"] / found["seconds"]),
        "data_mb_per_s": round(gigabytes * 1000 / found["seconds"]),
        "rows_per_batch": found["rows"] // found["batches"],
        "batch_ms": round(found["batch_ms"]),
        "cpu_s_per_gb": round(sum(cpu.values()), 2),
        **{f"of_which_{name.replace(' ', '_')}": round(seconds, 2) for name, seconds in cpu.items()},
    }


if __name__ == "__main__":
    main(run, seconds=10)
