"""A Spark query as a process of its own, for `end_to_end` and `latency`.

`--format F --option K=V …` is the source. `throughput` writes to Spark's noop sink and prints `{"begin": …}`, then
`{"end": {"seconds", "rows", "batches", "batch_ms"}}` over whole batches. `latency` expects a stamp (ns since the epoch)
in `data` and prints `{"processed": ms}` for each row.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pyspark.sql import SparkSession

from benchmarks.children import say
from benchmarks.floor_source import FromMemory, OneRow

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.streaming.query import StreamingQuery

WARM_UP_BATCHES = 3
"""The JVM compiles its inner loops meanwhile, and Python workers start."""

POLL_S = 0.01


def session(cores: int) -> SparkSession:
    """A local Spark with default settings but for its noise."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    spark = (
        SparkSession.builder.master(f"local[{cores}]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.memory", "2g")
        .config("spark.log.level", "ERROR")
        .getOrCreate()
    )
    for source in (FromMemory, OneRow):
        spark.dataSource.register(source)
    return spark


def throughput(rows: DataFrame, checkpoint: str, seconds: float, warm_up_s: float) -> None:
    """Whole batches, from the end of one to the end of another."""
    query = rows.writeStream.format("noop").option("checkpointLocation", checkpoint).start()
    batches = _finished(query)
    begun, warm = next(batches), time.perf_counter() + warm_up_s
    while begun["batchId"] < WARM_UP_BATCHES or time.perf_counter() < warm:
        begun = next(batches)
    start = time.perf_counter()
    say(begin=begun["batchId"])
    total, times_ms = 0, []
    for batch in batches:
        total += batch["numInputRows"]
        times_ms.append(batch["batchDuration"])
        took = time.perf_counter() - start
        if took >= seconds:
            break
    say(end={"seconds": took, "rows": total, "batches": len(times_ms), "batch_ms": statistics.median(times_ms)})
    # The parent reads CPU times before it lets this process end.
    time.sleep(60)


def latency(rows: DataFrame, checkpoint: str) -> None:
    """Each row as soon as a sink has it, until ended."""

    def sink(batch: DataFrame, _batch_id: int) -> None:
        stamps = [int(bytes(row.data)) for row in batch.select("data").collect()]
        now = time.time_ns()
        for stamp in stamps:
            say(processed=(now - stamp) / 1e6)

    rows.writeStream.foreachBatch(sink).option("checkpointLocation", checkpoint).start().awaitTermination()


def _finished(query: StreamingQuery) -> Iterator[dict[str, Any]]:
    """The progress of each batch with rows, once it has ended."""
    told = -1
    while True:
        if query.exception() is not None:
            raise RuntimeError(str(query.exception()))
        for progress in query.recentProgress:
            if progress["batchId"] > told and progress["numInputRows"]:
                told = progress["batchId"]
                yield progress
        time.sleep(POLL_S)


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["throughput", "latency"])
    parser.add_argument("--format", required=True)
    parser.add_argument("--checkpoint", required=True, help="an empty folder; whoever made it removes it")
    parser.add_argument("--option", action="append", default=[])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--warm-up-s", type=float, default=3)
    parser.add_argument("--cores", type=int, default=2)
    chosen = parser.parse_args()
    reader = session(chosen.cores).readStream.format(chosen.format)
    rows = reader.options(**dict(option.split("=", 1) for option in chosen.option)).load()
    if chosen.what == "throughput":
        throughput(rows, chosen.checkpoint, chosen.seconds, chosen.warm_up_s)
    else:
        latency(rows, chosen.checkpoint)


if __name__ == "__main__":
    main()
