"""Whatever fault is made, every message that was received is in exactly one place, and `penstock status` shows it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.service.conftest import NAME, Daemon, Site, until

from penstock.client import Consumer

COUNT = 3000


def cut_connections(site: Site, _daemon: Daemon) -> None:
    site.faults.cut_connections()


def refuse_streams(site: Site, _daemon: Daemon) -> None:
    site.faults.fail("StreamingPull", "UNAVAILABLE", times=5)
    site.faults.cut_streams()


def stand_still(_site: Site, daemon: Daemon) -> None:
    """Longer than a reservoir takes for a pause of the machine (5 s)."""
    os.kill(daemon.process.pid, signal.SIGSTOP)
    time.sleep(6)
    os.kill(daemon.process.pid, signal.SIGCONT)


FAULTS: dict[str, Callable[[Site, Daemon], object]] = {
    "failing acks": lambda site, _: site.faults.fail("Acknowledge", "UNAVAILABLE", times=20),
    "acks that do nothing": lambda site, _: site.faults.drop_acks(NAME, times=2),
    "failing extensions": lambda site, _: site.faults.fail("ModifyAckDeadline", "UNAVAILABLE", times=20),
    "slow acks": lambda site, _: site.faults.delay("Acknowledge", 1.0, times=3),
    "redeliveries": lambda site, _: site.faults.redeliver(NAME, 500),
    "undecodable responses": lambda site, _: site.faults.garble(NAME, responses=2),
    "cut streams": lambda site, _: site.faults.cut_streams(),
    "streams that cannot be opened": refuse_streams,
    "cut connections": cut_connections,
    "a daemon that stands still": stand_still,
}


def status(daemon: Daemon, *flags: str) -> str:
    command = [sys.executable, "-m", "penstock", "status", "--daemon", daemon.endpoint, *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def accounting(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.figures()["accounting"]
    assert found["received"] + found["recovered"] == sum(found["places"].values())
    assert found["unaccounted"] == 0
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_the_counts_add_up_at_every_instant(site: Site, fault: str) -> None:
    daemon = site.serve("--set", "pubsub.ack_deadline_s=10", "--set", "pubsub.jitter_ms=0")
    site.publish(COUNT)
    got: set[bytes] = set()
    with Consumer(NAME, endpoint=daemon.endpoint, max_rows=700) as reading:
        batch = reading.next(20)
        assert batch is not None
        FAULTS[fault](site, daemon)
        accounting(daemon)
        end = time.monotonic() + 60
        while site.statistics()["remaining"] and time.monotonic() < end:
            if batch is not None:
                got.update(batch.to_table().column("data").to_pylist())
                accounting(daemon)
                batch.commit()
            accounting(daemon)
            batch = reading.next(0.5)
        assert site.statistics()["remaining"] == 0
        until(lambda: not daemon.figures()["acks"]["pending"])
        places = accounting(daemon)["places"]
    assert len(got) == COUNT
    assert places["acknowledged"] + places["known"] + places["acks_lost"] >= COUNT
    said = json.loads(status(daemon, "--json"))["subscriptions"][NAME]["accounting"]
    assert set(said) == {"received", "recovered", "places", "unaccounted"}
    assert said["unaccounted"] == 0
    assert "unaccounted" in status(daemon)
