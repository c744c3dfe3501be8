"""How fast does a daemon take messages in, beside Google's Python client and beside bare gRPC?

One server, one receiving process, one shape of responses at a time. The daemon runs as in production: leases, seals
each 100 ms and commits go on, so that every message taken in is acknowledged as well; nobody reads the batches. The
bare receiver does nothing with what it gets. Google's client acknowledges in its callback.
"""

from __future__ import annotations

import functools
import statistics
import time

from benchmarks.children import Child, Children, Meter, children
from benchmarks.daemon import Driver, daemon
from benchmarks.firehose import figures
from benchmarks.harness import LONG_S, Goal, Report, Row, Spread, main, middle, take_turns
from benchmarks.messages import ACK_ID_CHARACTERS, Shape
from penstock.client import NodeClient

GOALS = {"vs_google_python_1kb": Goal(25), "vs_raw_receive_1kb": Goal(0.6)}
SHAPES = (Shape(1024, 100), Shape(1024, 1000), Shape(100, 1000))
LEAST_S = 2.0
MOST_ROUNDS = 3
WARM_UP_S = 1.0
RAW_STREAMS = 2
"""The bare receiver's best with 100-message responses: 9 % more than with one stream; with four there was no gain. The
daemon opens several by itself."""
SEAL_EVERY_S = 0.1

FLAGS: tuple[str, ...] = ()
"""Default settings: that is the point."""


def run(seconds: float) -> Report:
    """All shapes, `seconds` for each arm of each, in turns."""
    report = Report("ingest", goals=GOALS)
    rate: dict[tuple[str, Shape], float] = {}
    per_cpu_s: dict[tuple[str, Shape], float] = {}
    rounds = max(1, min(MOST_ROUNDS, int(seconds / LEAST_S)))
    with children() as owned:
        for shape in SHAPES:
            with owned.running("firehose", "benchmarks.firehose", "--prepare", shape.subscription) as firehose:
                port = firehose.expect("ready")
                each = max(seconds / rounds, 1.0)
                arms = {
                    "penstock": functools.partial(penstock, owned, firehose, port, shape, each),
                    "raw receive": functools.partial(raw, owned, firehose, port, shape, each),
                    "google python": functools.partial(google, owned, firehose, port, shape, each),
                }
                if shape.data_bytes == 100 and seconds < LONG_S:
                    arms = {"penstock": arms["penstock"]}
                for arm, samples in take_turns(arms, rounds).items():
                    row = middle(samples, "messages_per_s")
                    spread = Spread.of([sample["messages_per_s"] for sample in samples])
                    rate[arm, shape] = row["messages_per_s"]
                    per_cpu_s[arm, shape] = statistics.median(sample["messages_per_cpu_s"] for sample in samples)
                    size = shape.data_bytes
                    report.add(
                        arm=arm, data_bytes=size, messages_per_response=shape.messages, **row, range=spread.range
                    )
                    if arm == "penstock" and size == 100:
                        report.rows[-1]["messages_per_s_100b"] = row["messages_per_s"]
    ratios = {
        "vs_google_python_1kb": "google python",
        "vs_raw_receive_1kb": "raw receive",
    }
    for name, peer in ratios.items():
        for prefix, of in (("", rate), ("per_cpu_", per_cpu_s)):
            worst = min(of["penstock", shape] / of[peer, shape] for shape in SHAPES if shape.data_bytes == 1024)
            report.ratios[prefix + name] = worst
    report.notes.append("per_cpu_…: messages per CPU second of the receiving process, which others' load changes less")
    return report


def penstock(owned: Children, firehose: Child, port: int, shape: Shape, seconds: float) -> Row:
    """A daemon with a driver that seals and commits; counts what was acknowledged by the firehose as well."""
    with daemon(owned, port, shape.subscription, *FLAGS) as (process, address), NodeClient(address) as node:
        driver = Driver(node, shape.subscription)
        driver.open()
        driver.wait_rows(10)
        _take(driver, WARM_UP_S)
        acked = figures(port).get("ack_bytes", 0)
        meter = Meter(firehose=firehose, arm=process)
        messages = _take(driver, seconds)
        took, cores = meter.stop()
        acked = figures(port).get("ack_bytes", 0) - acked
    return _row(shape, messages, took, cores, acks_per_s=round(acked / (ACK_ID_CHARACTERS + 3) / took))


def raw(owned: Children, firehose: Child, port: int, shape: Shape, seconds: float) -> Row:
    """Bytes received and dropped."""
    streams = ("--streams", str(RAW_STREAMS))
    return _peer(owned, firehose, shape, seconds, "benchmarks.raw_receive", "--port", str(port), *streams)


def google(owned: Children, firehose: Child, port: int, shape: Shape, seconds: float) -> Row:
    """A callback for each message."""
    emulator = f"127.0.0.1:{port}"
    return _peer(owned, firehose, shape, seconds, "benchmarks.google_receive", PUBSUB_EMULATOR_HOST=emulator)


def _peer(owned: Children, firehose: Child, shape: Shape, seconds: float, *command: str, **environment: str) -> Row:
    arguments = [*command, "--subscription", shape.subscription, "--seconds", str(seconds)]
    with owned.running("peer", *arguments, **environment) as peer:
        peer.expect("begin")
        meter = Meter(firehose=firehose, arm=peer)
        found = peer.expect("end")
        _, cores = meter.stop()
        return _row(shape, found["messages"], found["seconds"], cores)


def _take(driver: Driver, seconds: float) -> int:
    """Seal and commit for a while; the rows sealed."""
    rows, end = 0, time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        sealed = driver.seal()
        if sealed.batch is not None:
            rows += sealed.rows
            driver.commit()
        time.sleep(max(0.0, SEAL_EVERY_S - (time.perf_counter() - start)))
    return rows


def _row(shape: Shape, messages: int, seconds: float, cores: dict[str, float], **more: int) -> Row:
    rate = messages / seconds
    per_cpu_s = round(rate / max(cores["arm_cores"], 0.01))
    figures = {"messages_per_s": round(rate), "messages_per_cpu_s": per_cpu_s}
    return {**figures, "data_mb_per_s": round(rate * shape.data_bytes / 1e6), **cores, **more}


if __name__ == "__main__":
    main(run, seconds=5)
