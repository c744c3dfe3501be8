"""Each failure, again and again: the memory of the process stays, and nothing is held when all is over."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import cast

import pyarrow.flight as fl
import pytest
from tests.service.conftest import NAME, Daemon, Site, until

from penstock.client import Consumer, NodeClient
from penstock.contract import PROTOCOL_VERSION, Reader
from penstock.contract.actions import CloseRequest, OpenRequest, PlanRequest, ReleaseRequest, SealReply, SealRequest

ROUNDS = 12
WARM_UP = 4
ROWS = 2000
DATA_BYTES = 4000
LEAK_KB = ROWS * DATA_BYTES * (ROUNDS - WARM_UP) // 2 // 1024
"""Half of what comes after the warm-up. The heap keeps more after one round than after another, but not that much."""

QUIET_S = 0.3
"""What has not come by then comes at a deadline: what was on its way in a stream that was cut."""


def anonymous_kb(daemon: Daemon) -> int:
    """Anonymous memory of the process: what leaks show in, files and shared libraries left out."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1])


def read_on(daemon: Daemon) -> None:
    """Read and commit until nothing more comes."""
    with Consumer(NAME, endpoint=daemon.endpoint) as reading:
        while (batch := reading.next(QUIET_S)) is not None:
            batch.to_table()
            batch.commit()


def reads_that_break_off(site: Site, daemon: Daemon) -> None:
    reader = Reader(int(time.time() * 1000), "r")
    with NodeClient(daemon.endpoint) as node:
        node.call("open", OpenRequest(v=PROTOCOL_VERSION, consumer="c", reader=reader, subscription=NAME, after=0))
        ask = SealRequest(v=PROTOCOL_VERSION, consumer="c", reader=reader, epoch=1, after=0)
        reply: SealReply = until(lambda: said if (said := node.call("seal", ask)).batch else None)
        plan = PlanRequest(v=PROTOCOL_VERSION, consumer="c", reader=reader, epoch=1, batch=reply.batch or "", slices=2)
        for planned in node.call("plan", plan).slices:
            with contextlib.closing(cast("Generator[object]", node.read(planned.ticket))) as reading:
                next(reading)
        give_back = ReleaseRequest(v=PROTOCOL_VERSION, consumer="c", reader=reader, epoch=1, batch=reply.batch or "")
        node.call("release", give_back)
        node.call("close", CloseRequest(v=PROTOCOL_VERSION, consumer="c", reader=reader))


def acks_that_fail(site: Site, daemon: Daemon) -> None:
    site.faults.fail("Acknowledge", "UNAVAILABLE", times=3)
    read_on(daemon)


def streams_that_are_cut(site: Site, daemon: Daemon) -> None:
    with Consumer(NAME, endpoint=daemon.endpoint) as reading:
        reading.next(5)
        site.faults.cut_streams(NAME)
    read_on(daemon)


def undecodable_responses(site: Site, daemon: Daemon) -> None:
    with Consumer(NAME, endpoint=daemon.endpoint) as reading:
        reading.next(5)
        site.faults.garble(NAME, 3)
    read_on(daemon)


def consumers_that_come_and_go(site: Site, daemon: Daemon) -> None:
    for _ in range(5):
        with Consumer(NAME, endpoint=daemon.endpoint) as reading:
            reading.next(0)
    read_on(daemon)


def garbage(site: Site, daemon: Daemon) -> None:
    client = fl.connect(f"grpc://{daemon.endpoint}")
    for body in (b"[" * (4 << 20), b"\xff" * (3 << 20), b'{"v":1,"consumer":"' + b"x" * (3 << 20) + b'"}'):
        for call in (
            lambda body=body: list(client.do_action(fl.Action("seal", body))),
            lambda body=body: client.do_get(fl.Ticket(body)).read_all(),
            lambda body=body: client.get_flight_info(fl.FlightDescriptor.for_command(body)),
        ):
            with pytest.raises(fl.FlightError):
                call()
    client.close()


@pytest.mark.long
@pytest.mark.parametrize(
    "failure",
    [
        reads_that_break_off,
        acks_that_fail,
        streams_that_are_cut,
        undecodable_responses,
        consumers_that_come_and_go,
        garbage,
    ],
    ids=lambda failure: failure.__name__,
)
def test_a_failure_that_comes_again_and_again_leaves_no_memory_behind(
    site: Site, failure: Callable[[Site, Daemon], None]
) -> None:
    daemon = site.serve()
    sizes = []
    for _ in range(ROUNDS):
        for _ in range(ROWS // 1000):
            site.publish(1000, data_bytes=DATA_BYTES)
        failure(site, daemon)
        read_on(daemon)
        sizes.append(anonymous_kb(daemon))
    until(lambda: daemon.figures().get("used_bytes", 0) == 0)
    assert max(sizes) < max(sizes[:WARM_UP]) + LEAK_KB, f"RssAnon after each round, KiB: {sizes}"
