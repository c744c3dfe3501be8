"""A Spark query as a process: `python -m benchmarks.spark_query FORMAT [OPTION=VALUE …]` into Spark's noop sink.

Prints `begin` after a warm-up, and then `end` with rows, batches and seconds, taken between the starts of two batches,
so that they are whole ones.
"""

from __future__ import annotations

import argparse
import datetime
import tempfile
import time
from pathlib import Path
from typing import Any

from pyspark.sql.streaming.query import StreamingQuery

from benchmarks.children import say
from benchmarks.spark_rows import Appended, InMemory
from benchmarks.spark_session import session

WARM_UP_BATCHES = 3
"""The JVM compiles in the first ones, and Python workers start."""

WARM_UP_S = 6.0
STALL_S = 60.0


def run(source: str, options: dict[str, str], seconds: float) -> None:
    """Until the first batch that starts `seconds` after the first one counted."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-spark-") as folder:
        spark = session(Path(folder, "warehouse"))
        spark.dataSource.register(InMemory)
        spark.dataSource.register(Appended)
        rows = spark.readStream.format(source).options(**options).load()
        writer = rows.writeStream.format("noop").option("checkpointLocation", str(Path(folder, "checkpoint")))
        query = writer.start()
        try:
            started = time.monotonic()
            first = _next_batch(query, WARM_UP_BATCHES)
            while time.monotonic() - started < WARM_UP_S:
                first = _next_batch(query, first + 1)
            say(begin=True)
            begun = time.monotonic()
            last = first
            while time.monotonic() - begun < seconds:
                last = _next_batch(query, last + 1)
            say(end=_between(query, first, last))
        finally:
            query.stop()
            spark.stop()


def _next_batch(query: StreamingQuery, number: int) -> int:
    """Wait until a batch of at least that number is finished; its number."""
    end = time.monotonic() + STALL_S
    while time.monotonic() < end:
        if query.exception() is not None:
            raise RuntimeError(f"the query ended: {query.exception()}")
        done = [progress.batchId for progress in query.recentProgress[-1:]]
        if done and done[0] >= number:
            return int(done[0])
        time.sleep(0.02)
    raise RuntimeError(f"no batch was finished for {STALL_S:g} s")


def _between(query: StreamingQuery, first: int, last: int) -> dict[str, Any]:
    """Batches `first` to `last`, the last one excluded."""
    progress = {p.batchId: p for p in query.recentProgress if p.numInputRows}
    counted = [progress[number] for number in sorted(progress) if first <= number < last]
    seconds = (_time(progress[last].timestamp) - _time(progress[first].timestamp)).total_seconds()
    durations = [p.durationMs for p in counted]
    phases = {key: round(sum(d.get(key, 0) for d in durations) / len(durations)) for key in durations[-1]}
    return {
        "rows": sum(p.numInputRows for p in counted),
        "batches": len(counted),
        "seconds": seconds,
        "ms_per_batch": phases,
    }


def _time(said: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(said)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("format")
    parser.add_argument("option", nargs="*")
    parser.add_argument("--seconds", type=float, default=10)
    chosen = parser.parse_args()
    run(chosen.format, dict(option.split("=", 1) for option in chosen.option), chosen.seconds)
