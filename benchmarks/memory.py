"""How much memory does a daemon take while the reader stands still and far more is offered than its budget?

Two servers. The firehose ignores flow control and offers without end: what bounds the daemon is the daemon. The
emulator holds ten times the budget, keeps to flow control, and knows every message: when the reader wakes, all of them
must come. The reader has sealed one batch, keeps contact and neither reads nor commits. RssAnon is sampled all
the while.
"""

from __future__ import annotations

import time

import numpy as np
import pyarrow.flight as fl

from benchmarks.children import Child, children
from benchmarks.daemon import Driver, daemon
from benchmarks.harness import Goal, Report, Row, main
from benchmarks.messages import Shape
from benchmarks.topic import SUBSCRIPTION, numbers, topic
from penstock.client import NodeClient

GOALS = {"anon_rss_over_budget_mb": Goal(250, at_most=True), "lost": Goal(0, at_most=True)}
BUDGET_MB = 64
OFFERED = 10
DATA_BYTES = 1024
MESSAGES = OFFERED * (BUDGET_MB << 20) // DATA_BYTES
SAMPLE_S = 0.02
FILL_S = 5.0
WAKE_S = 120.0
FLAGS = ("--memory-limit-mb", str(BUDGET_MB))


def run(seconds: float) -> Report:
    """Stand still for `seconds` before each server, then wake before the emulator."""
    report = Report("memory", goals=GOALS)
    with children() as owned:
        shape = Shape(DATA_BYTES, 1000)
        with owned.running("firehose", "benchmarks.firehose", "--prepare", shape.subscription) as firehose:
            port = firehose.expect("ready")
            with daemon(owned, port, shape.subscription, *FLAGS) as (process, address), NodeClient(address) as node:
                empty = process.anonymous_bytes()
                row, _ = _stand_still(Driver(node, shape.subscription), process, seconds)
                report.add(server="firehose", budget_mb=BUDGET_MB, empty_rss_anon_mb=empty >> 20, **row)
        with topic(owned) as (_, port, publisher):
            publisher.numbered(0, MESSAGES, DATA_BYTES)
            with daemon(owned, port, SUBSCRIPTION, *FLAGS) as (process, address), NodeClient(address) as node:
                empty = process.anonymous_bytes()
                driver = Driver(node, SUBSCRIPTION)
                row, _ = _stand_still(driver, process, seconds)
                found = _wake(driver, address, process)
                row["anon_mb"] = max(row["anon_mb"], found.pop("anon_mb"))
                report.add(server="emulator", budget_mb=BUDGET_MB, empty_rss_anon_mb=empty >> 20, **row, **found)
    report.ratios["anon_rss_over_budget_mb"] = max(row["anon_mb"] for row in report.rows) - BUDGET_MB
    report.ratios["lost"] = report.rows[-1]["lost"]
    return report


def _stand_still(driver: Driver, process: Child, seconds: float) -> tuple[Row, int]:
    """Open, seal once, then only keep contact; the highest RssAnon, and the rows sealed."""
    driver.open()
    driver.wait_rows(10)
    # A large batch first: how much is pulled ahead follows what the last batches took.
    full = time.monotonic() + FILL_S
    while driver.figures()["paused"] is None and time.monotonic() < full:
        time.sleep(SAMPLE_S)
    sealed, peak, alive_at = driver.seal(), 0, 0.0
    start = time.monotonic()
    while (now := time.monotonic()) < start + seconds:
        peak = max(peak, process.anonymous_bytes())
        if now - alive_at > 1:
            driver.alive()
            alive_at = now
        time.sleep(SAMPLE_S)
    figures = driver.figures()
    held = {"counted_mb": round(figures["used_bytes"] / (1 << 20), 1), "paused": figures["paused"]}  # type: ignore[operator]
    return {"anon_mb": round(peak / (1 << 20), 1), **held}, sealed.rows


def _wake(driver: Driver, address: str, process: Child) -> Row:
    """Read, commit, seal, until every message has come or none comes any more."""
    seen, rows, peak, start = np.zeros(MESSAGES, np.int32), 0, 0, time.monotonic()
    with fl.FlightClient(f"grpc://{address}") as client:
        while not seen.all() and time.monotonic() < start + WAKE_S:
            for part in driver.plan(2):
                for chunk in client.do_get(fl.Ticket(part.ticket.to_json())):
                    if chunk.data.num_rows:
                        np.add.at(seen, numbers(chunk.data.column("data")).astype(np.int64), 1)
                        rows += chunk.data.num_rows
            driver.commit()
            while driver.seal().batch is None and time.monotonic() < start + WAKE_S and not seen.all():
                driver.wait_rows(1.0)
            peak = max(peak, process.anonymous_bytes())
            if seen.all():
                break
    return {
        "anon_mb": round(peak / (1 << 20), 1),
        "offered": MESSAGES,
        "lost": int((seen == 0).sum()),
        "twice": int((seen > 1).sum()),
        "woken_rows_per_s": round(rows / (time.monotonic() - start)),
    }


if __name__ == "__main__":
    main(run, seconds=5)
