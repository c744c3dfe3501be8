"""What Prometheus and an orchestrator see of the daemon."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from penstock.clock import boottime
from penstock.errors import InvalidOption
from penstock.http import HttpServer
from penstock.reservoir import Reservoir
from penstock.settings import ReservoirSettings

NAME = "projects/p/subscriptions/s"

FIGURES: dict[str, Any] = {
    "received": 12,
    "acknowledged": 3,
    "buffered": 5,
    "buffered_bytes": 500,
    "in_batches": 4,
    "batches": 2,
    "batches_pending": 1,
    "oldest_age_s": 1.5,
    "used_bytes": 900,
    "share_bytes": 1000,
    "paused": "budget",
    "failed": None,
    "claims": 8,
    "claims_local": 7,
    "consumers": {"a": {}, "b": {}},
    "pull": {"streams": 2, "bytes": 4096, "responses": 7, "reconnects": 0},
    "acks": {"pending": 6, "requests": 8, "extended": 9},
}


@dataclass
class Daemon:
    """A daemon with a real, empty reservoir and settable figures."""

    reservoir: Reservoir = field(default_factory=lambda: Reservoir(ReservoirSettings(memory_limit_mb=16), boottime))
    reasons: list[str] = field(default_factory=list)
    subscriptions: dict[str, dict[str, Any]] = field(default_factory=lambda: {NAME: FIGURES})

    def not_ready(self) -> list[str]:
        return self.reasons

    def figures(self) -> dict[str, dict[str, Any]]:
        return self.subscriptions

    def publishing(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
async def get(daemon: Daemon) -> AsyncIterator[Any]:
    """GET a path: status, content type, text."""
    timeout = aiohttp.ClientTimeout(10)
    async with HttpServer("127.0.0.1:0", daemon=daemon) as server, aiohttp.ClientSession(timeout=timeout) as session:

        async def fetch(path: str, **headers: str) -> tuple[int, str, str]:
            async with session.get(f"http://{server.address}{path}", headers=headers) as reply:
                return reply.status, reply.headers["Content-Type"], await reply.text()

        yield fetch


async def test_metrics_are_what_prometheus_can_parse(get: Any) -> None:
    status, content_type, text = await get("/metrics")
    assert status == 200
    assert content_type.startswith("text/plain")
    values = {
        sample.name: sample.value
        for family in parse_text(text)
        for sample in family.samples
        if sample.labels.get("subscription") == NAME
    }
    assert values["penstock_received_messages_total"] == 12
    assert values["penstock_buffered_rows"] == 5
    assert values["penstock_buffered_bytes"] == 500
    assert values["penstock_oldest_unsealed_age_seconds"] == 1.5
    assert values["penstock_batches_sealed"] == 2
    assert values["penstock_acks_pending"] == 6
    assert values["penstock_pull_streams"] == 2
    assert values["penstock_consumers"] == 2
    assert values["penstock_claims_total"] == 8
    assert values["penstock_claims_local_total"] == 7
    assert values["penstock_paused"] == 1
    assert values["penstock_failed"] == 0


async def test_metrics_show_the_budget_the_process_and_the_loop(get: Any) -> None:
    _, _, text = await get("/metrics")
    values = {(s.name, *sorted(s.labels.values())): s.value for family in parse_text(text) for s in family.samples}
    assert values["penstock_budget_limit_bytes",] == 16 << 20
    assert values["penstock_budget_used_bytes",] == 0
    assert values["penstock_process_memory_bytes", "resident"] > 1 << 20
    assert values["penstock_process_memory_bytes", "anonymous"] > 1 << 20
    assert values["penstock_process_cpu_seconds_total",] > 0
    assert values["penstock_loop_lag_seconds",] >= 0


async def test_openmetrics_is_served_to_who_asks_for_it(get: Any) -> None:
    _, content_type, text = await get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert any(family.name == "penstock_received_messages" for family in parse_openmetrics(text))


async def test_no_metric_is_exposed_twice(get: Any) -> None:
    _, _, text = await get("/metrics")
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


async def test_what_is_not_http_is_refused_without_a_line_in_the_log(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    async with HttpServer("127.0.0.1:0", daemon=daemon) as server:
        host, port = server.address.split(":")
        for said in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00$\x04\x00", b"\xff\x00 nonsense\r\n\r\n"):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(said)
            assert b" 400 " in await asyncio.wait_for(reader.readline(), 10)
            writer.close()
    assert not caplog.records


async def test_a_defect_in_a_handler_is_logged(
    daemon: Daemon, get: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Daemon, "not_ready")
    status, _, _ = await get("/readyz")
    assert status == 500
    (record,) = caplog.records
    assert "not_ready" in (record.exc_text or str(record.exc_info))


async def test_a_daemon_without_subscriptions_still_has_metrics(daemon: Daemon, get: Any) -> None:
    daemon.subscriptions = {}
    status, _, text = await get("/metrics")
    assert status == 200
    assert "penstock_budget_limit_bytes" in text


async def test_health_is_the_loop_that_answers(get: Any) -> None:
    status, content_type, text = await get("/healthz")
    assert (status, content_type.split(";")[0]) == (200, "application/json")
    assert '"status": "ok"' in text
    assert "loop_lag_s" in text


async def test_readiness_says_why_not(daemon: Daemon, get: Any) -> None:
    assert (await get("/readyz"))[0] == 200
    daemon.reasons = ["draining"]
    status, _, text = await get("/readyz")
    assert status == 503
    assert "draining" in text
    assert (await get("/healthz"))[0] == 200, "a daemon that is not ready need not be restarted"


async def test_other_paths_and_methods_are_refused(get: Any) -> None:
    assert (await get("/"))[0] == 404
    assert (await get("/metrics/../etc/passwd"))[0] == 404


async def test_a_taken_address_is_named(daemon: Daemon) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InvalidOption, match=address):
            async with HttpServer(address, daemon=daemon):
                pass


async def test_the_port_is_free_again_after_the_block(daemon: Daemon) -> None:
    async with HttpServer("127.0.0.1:0", daemon=daemon) as server:
        address = server.address
    async with HttpServer(address, daemon=daemon) as again:
        assert again.address == address
