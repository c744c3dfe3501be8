"""Spark batch writes as a process of its own, for `publish`: the same rows again and again to `--format F`.

Prints `begin`, then `{"end": {"seconds", "rows"}}` over whole writes.
"""

from __future__ import annotations

import argparse
import time

from pyspark.sql import functions as f

from benchmarks.children import say
from benchmarks.spark_query import session

ROWS = 250_000
"""Of one write: long enough that what a Spark job costs by itself, some 100 ms, is little of it."""

WARM_UP_S = 3.0
"""The JVM compiles, Python workers start."""


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--format", required=True)
    parser.add_argument("--option", action="append", default=[])
    parser.add_argument("--data-bytes", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--cores", type=int, default=2)
    chosen = parser.parse_args()
    spark = session(chosen.cores)
    data = f.rpad(f.col("id").cast("string"), chosen.data_bytes, "x").cast("binary").alias("data")
    rows = spark.range(0, ROWS, 1, chosen.cores).select(data)
    writer = rows.write.format(chosen.format).options(**dict(option.split("=", 1) for option in chosen.option))

    def write() -> None:
        writer.mode("append").save()

    warm = time.perf_counter() + WARM_UP_S
    write()
    while time.perf_counter() < warm:
        write()
    say(begin=True)
    start, written, took = time.perf_counter(), 0, 0.0
    while took < chosen.seconds:
        write()
        written += ROWS
        took = time.perf_counter() - start
    say(end={"seconds": took, "rows": written})
    # The parent reads CPU times before it lets this process end.
    time.sleep(60)


if __name__ == "__main__":
    main()
