"""Starts the parts in order, shows what happens, checks that everything adds up, and ends the parts."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from penstock.client import NodeClient
from penstock.contract import PROTOCOL_VERSION
from penstock.contract.actions import StatusRequest
from penstock.demo import query
from penstock.demo.interrupts import Interrupts
from penstock.demo.processes import Child, Children, DemoFailed, answers, children, free_port
from penstock.demo.tally import Tally
from penstock.emulator import FaultClient

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

PROJECT = "demo"
SUBSCRIPTION = "readings"
PATH = f"projects/{PROJECT}/subscriptions/{SUBSCRIPTION}"
TOPIC = f"projects/{PROJECT}/topics/{SUBSCRIPTION}"

START_S = 60.0
WARM_UP = 2000
"""So many messages go first, and what is measured begins when they are through: Spark compiles the query and starts its
Python workers with the first of them, which takes seconds once."""

STALL_S = 60.0
"""The demo gives up when nothing was processed or acknowledged for this long, and for as long as the rate gives a
message."""


@dataclass(frozen=True)
class DemoSettings:
    """How much to send. `rate` is in messages per second; None is as fast as it goes."""

    messages: int = 300_000
    data_bytes: int = 1024
    rate: float | None = None
    json: bool = False


@dataclass(frozen=True)
class Summary:
    """The figures at the end. Messages, seconds, 10^6 bytes of data per second."""

    published: int
    received: int
    processed: int
    acknowledged: int
    redelivered: int
    remaining: int
    seconds: float
    messages_per_s: float
    mb_per_s: float
    batches: int
    latency_p50_s: float
    latency_p99_s: float

    def adds_up(self) -> bool:
        """Whether every message published was processed and acknowledged, and nothing is left."""
        return self.published == self.processed == self.acknowledged and self.remaining == 0


def run(settings: DemoSettings) -> int:
    """Run the demo; 0 when everything adds up. Raises `DemoFailed`."""
    console = Console(file=sys.stderr)
    with (
        Interrupts() as interrupts,
        children() as owned,
        contextlib.closing(_Parts(owned, interrupts)) as parts,
        _ended(query.session()) as spark,
    ):
        interrupts.watch()  # Spark took the signal
        console.print(
            f"Pub/Sub emulator on 127.0.0.1:{parts.emulator_port}, daemon on {parts.endpoint}, Spark {spark.version}"
        )
        tally = Tally()
        streaming = query.start(
            spark,
            project=PROJECT,
            subscription=SUBSCRIPTION,
            daemon=parts.endpoint,
            checkpoint=str(owned.folder / "checkpoint"),
            tally=tally,
        )
        parts.wait_for_reader()
        first = min(WARM_UP, settings.messages)
        stall_s = STALL_S + (1 / settings.rate if settings.rate else 0.0)
        with Live(console=console, refresh_per_second=4) as live:
            publishing, started_s = parts.publish(settings, first), time.time()
            published = _watch(parts, publishing, tally, streaming, live, stall_s=stall_s)
            if settings.messages > first:
                publishing, started_s = parts.publish(settings, settings.messages - first), time.time()
                published = _watch(parts, publishing, tally, streaming, live, stall_s=stall_s, before=published)
            else:
                first = 0
        streaming.stop()
        summary = _summary(parts, published, first, tally, tally.last_done_s - started_s, settings)
    console.print(_summary_table(summary))
    if settings.json:
        print(json.dumps(dataclasses.asdict(summary)), flush=True)  # noqa: T201 - the result
    if not summary.adds_up():
        raise DemoFailed(f"published, processed and acknowledged should be equal, and nothing remain: {summary}")
    return 0


class _Parts:
    """The processes beside Spark."""

    def __init__(self, owned: Children, interrupts: Interrupts) -> None:
        self._owned = owned
        self._interrupts = interrupts
        self.emulator_port, emulator_http, self.port, http = free_port(), free_port(), free_port(), free_port()
        self.endpoint = f"127.0.0.1:{self.port}"
        self._to_emulator = {"PUBSUB_EMULATOR_HOST": f"127.0.0.1:{self.emulator_port}"}
        ports = ("--port", str(self.emulator_port), "--http-port", str(emulator_http))
        emulator = owned.start("emulator", "penstock", "emulator", *ports)
        owned.wait(emulator, lambda: answers(self.emulator_port), START_S)
        self._topology()
        arguments = ("--listen", f"grpc://{self.endpoint}", "--http", f"127.0.0.1:{http}", "--subscription", PATH)
        self._daemon = owned.start("daemon", "penstock", "serve", *arguments, **self._to_emulator)
        owned.wait(self._daemon, lambda: answers(self.port), START_S)
        self._node = NodeClient(self.endpoint)
        self._faults = FaultClient(f"127.0.0.1:{emulator_http}")

    def close(self) -> None:
        """Close the connection to the daemon; the processes belong to somebody else."""
        self._node.close()

    def _topology(self) -> None:
        creating = self._owned.start("topology", "penstock.demo.topology", TOPIC, PATH, **self._to_emulator)
        self._owned.wait(creating, lambda: creating.process.poll() == 0, START_S)

    def wait_for_reader(self) -> None:
        """Publish to a query that is listening: its start is not what is measured."""
        self._owned.wait(self._daemon, lambda: bool(self.figures().get("consumers")), START_S)

    def publish(self, settings: DemoSettings, messages: int) -> Child:
        """Start a publisher of that many messages."""
        rate = [] if settings.rate is None else ["--rate", str(settings.rate)]
        sizes = ["--messages", str(messages), "--data-bytes", str(settings.data_bytes)]
        return self._owned.start(
            "publisher", "penstock.demo.publisher", "--topic", TOPIC, *sizes, *rate, **self._to_emulator
        )

    def figures(self) -> dict[str, Any]:
        """The daemon's figures of the subscription."""
        reply = self._node.call("status", StatusRequest(v=PROTOCOL_VERSION))
        found: dict[str, Any] = reply.subscriptions.get(PATH, {})
        return found

    def service_figures(self) -> dict[str, Any]:
        """The emulator's figures of the subscription."""
        return self._faults.statistics(PATH)

    def check(self) -> None:
        """Raise `DemoFailed` if a part has failed, `KeyboardInterrupt` if the demo is to end."""
        self._interrupts.check()
        self._owned.check()


def _watch(  # noqa: PLR0913 - what is watched, and until when
    parts: _Parts,
    publishing: Child,
    tally: Tally,
    streaming: StreamingQuery,
    live: Live,
    *,
    stall_s: float,
    before: int = 0,
) -> int:
    """Show progress until all that was published is processed and acknowledged; the number published, with `before`."""
    published: int | None = None
    last_change_s, last_seen = time.monotonic(), (-1, -1)
    while True:
        parts.check()
        if streaming.exception() is not None:
            raise DemoFailed(f"the Spark query ended: {streaming.exception()}")
        if published is None and publishing.process.poll() == 0:
            published = before + int(json.loads(publishing.log.read_text().splitlines()[-1])["published"])
        figures = parts.figures()
        processed, acknowledged = tally.messages, int(figures.get("acknowledged", 0))
        live.update(_progress_table(tally, figures, published))
        if published is not None and processed >= published and acknowledged >= published:
            return published
        if (processed, acknowledged) != last_seen:
            last_change_s, last_seen = time.monotonic(), (processed, acknowledged)
        elif time.monotonic() - last_change_s > stall_s:
            raise DemoFailed(
                f"nothing moved for {stall_s:g} s: published {published}, processed {processed}, "
                f"acknowledged {acknowledged}"
            )
        time.sleep(0.25)


@contextlib.contextmanager
def _ended(spark: SparkSession) -> Iterator[SparkSession]:
    try:
        yield spark
    finally:
        spark.stop()


def _progress_table(tally: Tally, figures: dict[str, Any], published: int | None) -> Table:
    messages, data_bytes = tally.by_city()
    table = Table(title="Sensor readings by city", min_width=76, caption=_progress_line(tally, figures, published))
    table.add_column("city")
    table.add_column("messages", justify="right")
    table.add_column("MB", justify="right")
    for city in sorted(messages):
        table.add_row(city, f"{messages[city]:,}", f"{data_bytes[city] / 1e6:,.1f}")
    return table


def _progress_line(tally: Tally, figures: dict[str, Any], published: int | None) -> str:
    received, acknowledged = figures.get("received", 0), figures.get("acknowledged", 0)
    line = f"{received:,} received, {tally.messages:,} processed, {acknowledged:,} acknowledged"
    return line if published is None else f"{published:,} published, {line}"


def _summary(
    parts: _Parts, published: int, first: int, tally: Tally, seconds: float, settings: DemoSettings
) -> Summary:
    """`first` messages were there to warm Spark up; `seconds` is for those after them."""
    figures, service = parts.figures(), parts.service_figures()
    processed = tally.messages
    return Summary(
        published=published,
        received=int(figures["received"]),
        processed=processed,
        acknowledged=int(figures["acknowledged"]),
        redelivered=int(service["redelivered"]),
        remaining=int(service["remaining"]),
        seconds=round(seconds, 3),
        messages_per_s=round((processed - first) / seconds),
        mb_per_s=round((processed - first) * settings.data_bytes / seconds / 1e6, 1),
        batches=tally.batches,
        latency_p50_s=tally.latency_s(0.5),
        latency_p99_s=tally.latency_s(0.99),
    )


def _summary_table(summary: Summary) -> Table:
    table = Table(title="Summary", show_header=False)
    table.add_column("figure")
    table.add_column("value", justify="right")
    for text, value in (
        ("published", f"{summary.published:,}"),
        ("received by the daemon", f"{summary.received:,}"),
        ("processed by Spark", f"{summary.processed:,}"),
        ("acknowledged", f"{summary.acknowledged:,}"),
        ("redelivered", f"{summary.redelivered:,}"),
        ("left on the subscription", f"{summary.remaining:,}"),
        (f"seconds, after the first {WARM_UP:,} messages", f"{summary.seconds:,.1f}"),
        ("messages/s", f"{summary.messages_per_s:,.0f}"),
        ("MB/s", f"{summary.mb_per_s:,.1f}"),
        ("batches", f"{summary.batches:,}"),
        ("publish to result, p50", f"{summary.latency_p50_s:.2f} s"),
        ("publish to result, p99", f"{summary.latency_p99_s:.2f} s"),
    ):
        table.add_row(text, value)
    return table
