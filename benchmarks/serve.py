"""How fast does a daemon serve a sealed batch, beside a bare Flight server with the same batches in memory?

A daemon takes messages in until it can seal a batch, then the firehose ends, so that nothing else runs while it is read
again and again by one `do_get` at a time. Then the round trip of an empty `seal`, of the cheapest action (`alive`), and
of an action of the bare server that does nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pyarrow.flight as fl

from benchmarks.children import Child, Meter, children
from benchmarks.daemon import Driver, daemon
from benchmarks.harness import Goal, Report, Row, Spread, main, middle, take_turns
from benchmarks.messages import Shape
from penstock.client import NodeClient

GOALS = {"vs_bare_flight": Goal(0.7), "empty_seal_median_ms": Goal(1.0, at_most=True)}
SHAPE = Shape(1024, 1000)
BATCH_BYTES = 100_000_000
FILL_S = 30.0
ROUNDS = 5


def run(seconds: float) -> Report:
    """Reads for about `seconds` on each side in turns, then the actions."""
    report = Report("serve", goals=GOALS)
    with children() as owned:
        firehose = owned.start("firehose", "benchmarks.firehose", "--prepare", SHAPE.subscription)
        port = firehose.expect("ready")
        with daemon(owned, port, SHAPE.subscription) as (process, address), NodeClient(address) as node:
            driver = Driver(node, SHAPE.subscription)
            driver.open()
            _fill(driver, BATCH_BYTES // SHAPE.data_bytes)
            firehose.end()
            sealed = driver.seal(max_rows=BATCH_BYTES // SHAPE.data_bytes)
            (part,) = driver.plan(1)
            size = str(sealed.rows * SHAPE.data_bytes)
            arguments = ("--subscription", SHAPE.subscription, "--size-bytes", size)
            bare = owned.start("flight", "benchmarks.flight_server", *arguments)
            bare_address = f"127.0.0.1:{bare.expect('ready')}"
            ticket = part.ticket.to_json()
            arms = {
                "penstock": lambda: _reads(address, ticket, process, seconds / ROUNDS),
                "bare flight": lambda: _reads(bare_address, b"any", bare, seconds / ROUNDS),
            }
            rate = {}
            for arm, samples in take_turns(arms, ROUNDS).items():
                row = middle(samples, "mb_per_s")
                rate[arm] = row["mb_per_s"]
                report.add(arm=arm, what="do_get", **row, range=Spread.of([s["mb_per_s"] for s in samples]).range)
            report.ratios["vs_bare_flight"] = rate["penstock"] / rate["bare flight"]
            driver.commit()
            _empty(driver)
            client = fl.FlightClient(f"grpc://{bare_address}")
            actions: dict[str, Callable[[], object]] = {
                "empty seal": driver.seal,
                "alive": driver.alive,
                "bare flight action": lambda: list(client.do_action(fl.Action("nothing", b"{}"))),
            }
            for name, call in actions.items():
                times_ms = _round_trips(call, min(seconds / 3, 2.0))
                quantiles = statistics.quantiles(times_ms, n=100)
                report.add(arm=name, what="action", median_ms=round(quantiles[49], 3), p99_ms=round(quantiles[98], 3))
            report.ratios["empty_seal_median_ms"] = next(
                r["median_ms"] for r in report.rows if r["arm"] == "empty seal"
            )
            client.close()
    return report


def _reads(address: str, ticket: bytes, server: Child, seconds: float) -> Row:
    """`do_get` of one ticket again and again by a plain Flight client."""
    with fl.FlightClient(f"grpc://{address}") as client:
        meter, size, rows, end = Meter(server=server), 0, 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            for chunk in client.do_get(fl.Ticket(ticket)):
                size += chunk.data.get_total_buffer_size()
                rows += chunk.data.num_rows
        took, cores = meter.stop()
    return {"mb_per_s": round(size / took / 1e6), "rows_per_s": round(rows / took), **cores}


def _round_trips(call: Callable[[], object], seconds: float) -> list[float]:
    times_ms: list[float] = []
    end = time.perf_counter() + seconds
    while len(times_ms) < 100 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times_ms.append((time.perf_counter() - start) * 1000)
    return times_ms


def _fill(driver: Driver, rows: int) -> None:
    end = time.monotonic() + FILL_S
    while driver.wait_rows(1.0) < rows:
        if time.monotonic() > end:
            raise RuntimeError(f"the daemon did not take {rows} rows in within {FILL_S:g} s")
        time.sleep(0.01)


def _empty(driver: Driver) -> None:
    """Seal and commit what is left, until a seal finds nothing."""
    while driver.seal().batch is not None:
        driver.commit()


if __name__ == "__main__":
    main(run, seconds=5)
