"""How long from a publish to the sink, one message at a time, beside Spark's own floor?

publish → emulator → daemon → Spark (`foreachBatch`), trigger of 0 s; the clock starts before the publish request. The
floor is a Python source that makes a row and stamps it when Spark asks: what is left is Spark's own batch. On both
sides the query is idle before each message.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from benchmarks.children import Child, Children, children
from benchmarks.daemon import daemon
from benchmarks.floor_source import PAUSE_S
from benchmarks.harness import Goal, Report, main
from benchmarks.topic import SUBSCRIPTION, topic

GOALS = {"p50_over_floor_ms": Goal(30, at_most=True)}
WARM_UP_MESSAGES = 4
"""Workers start and the JVM compiles meanwhile."""

LEAST_MESSAGES = 11


def run(seconds: float) -> Report:
    """About `seconds` of messages on each side, after a warm-up."""
    report = Report("latency", goals=GOALS)
    medians = {}
    with children() as owned:
        with topic(owned) as (_, port, publisher), daemon(owned, port, SUBSCRIPTION) as (_, address):
            options = ("--option", f"subscriptionId={SUBSCRIPTION}", "--option", f"daemons={address}")
            with _query(owned, "pubsub", *options) as spark:

                def one() -> float:
                    publisher.one(str(time.time_ns()).encode())
                    took_ms: float = spark.expect("processed")
                    time.sleep(PAUSE_S)
                    return took_ms

                medians["penstock"] = _measure(report, "penstock", one, seconds)
        with _query(owned, "one_row") as spark:
            medians["spark floor"] = _measure(report, "spark floor", lambda: spark.expect("processed"), seconds)
    report.ratios["p50_over_floor_ms"] = medians["penstock"] - medians["spark floor"]
    return report


def _query(owned: Children, source: str, *options: str) -> AbstractContextManager[Child]:
    arguments = ("--checkpoint", owned.new_folder(), "--format", source, *options)
    return owned.running("spark", "benchmarks.spark_query", "latency", *arguments)


def _measure(report: Report, arm: str, one: Callable[[], float], seconds: float) -> float:
    for _ in range(WARM_UP_MESSAGES):
        one()
    times_ms: list[float] = []
    end = time.monotonic() + seconds
    while len(times_ms) < LEAST_MESSAGES or time.monotonic() < end:
        times_ms.append(one())
    quantiles = statistics.quantiles(times_ms, n=100, method="inclusive")
    figures = {"p50_ms": quantiles[49], "p90_ms": quantiles[89], "p99_ms": quantiles[98], "least_ms": min(times_ms)}
    report.add(arm=arm, messages=len(times_ms), **{name: round(value, 1) for name, value in figures.items()})
    return quantiles[49]


if __name__ == "__main__":
    main(run, seconds=10)
