"""The HTTP server on the daemon's own loop: when it answers, the loop turns."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from types import TracebackType
from typing import Any, Protocol, Self

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import choose_encoder

from penstock.errors import InvalidOption
from penstock.http.figures import BudgetFigures, DaemonCollector
from penstock.settings import split_address
from penstock.telemetry import REGISTRY, ProcessCollector

LAG_INTERVAL_S = 0.5
"""How often the loop's lag is measured; `/healthz` and `penstock_loop_lag_seconds` show the last one."""

SHUTDOWN_S = 1.0
"""How long open HTTP requests may take when the daemon ends."""

_LOG = logging.getLogger("penstock.http")
"""Aiohttp's for this server: what fails in here is a defect."""


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a failure is not the client's, such as a port scanner or a Flight client at the wrong port."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


_LOG.addFilter(_is_ours)


class _Reservoir(Protocol):
    @property
    def budget(self) -> BudgetFigures:
        """The memory budget."""

    def storage(self) -> dict[str, Any] | None:
        """Figures of the data_dir; None where there is none."""

    def spilled(self) -> dict[str, Any] | None:
        """Figures of the temporary files; None where there are none."""


class Daemon(Protocol):
    """What the HTTP room sees of the daemon."""

    @property
    def reservoir(self) -> _Reservoir:
        """Its buffers."""

    def not_ready(self) -> list[str]:
        """Why the daemon is not ready; empty when it is."""

    def figures(self) -> dict[str, dict[str, Any]]:
        """Subscription → figures, as `status` shows them."""

    def publishing(self) -> dict[str, Any]:
        """Figures of what is published, those of each topic under `topics`; empty before the daemon serves."""


class HttpServer:
    """`async with HttpServer("127.0.0.1:9464", daemon=…) as server:` serves until the block ends.

    `server.address` is where (port 0 takes any free one). Entering raises `InvalidOption` when the address is taken.
    """

    def __init__(self, address: str, *, daemon: Daemon) -> None:
        self.address = address
        self._daemon = daemon
        self._host, self._port = split_address(address)
        self._registry = CollectorRegistry()
        self._registry.register(REGISTRY)
        self._registry.register(ProcessCollector())
        self._registry.register(
            DaemonCollector(
                daemon.figures,
                lambda: daemon.reservoir.budget,
                daemon.reservoir.storage,
                daemon.reservoir.spilled,
                daemon.publishing,
            )
        )
        self._lag = Gauge("penstock_loop_lag_seconds", "How late the loop woke the last time", registry=self._registry)
        self._lag_s = 0.0
        self._runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=SHUTDOWN_S, logger=_LOG)

    async def __aenter__(self) -> Self:
        """Listen."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise InvalidOption(f"http = {self.address!r}: cannot listen there: {error.strerror or error}") from error
        port = self._runner.addresses[0][1]
        self.address = f"[{self._host}]:{port}" if ":" in self._host else f"{self._host}:{port}"
        self._tasks = await asyncio.TaskGroup().__aenter__()
        self._measuring = self._tasks.create_task(self._measure_lag(), name="http: loop lag")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""
        self._measuring.cancel()
        try:
            await self._tasks.__aexit__(None, None, None)  # an error passes through as it is, not in a group
        finally:
            await self._runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/metrics", self._metrics),
                web.get("/healthz", self._health),
                web.get("/readyz", self._ready),
            ]
        )
        return app

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})

    async def _health(self, _request: web.Request) -> web.Response:
        return _json({"status": "ok", "loop_lag_s": round(self._lag_s, 6)})

    async def _ready(self, _request: web.Request) -> web.Response:
        reasons = self._daemon.not_ready()
        return _json({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    async def _measure_lag(self) -> None:
        while True:
            due = time.monotonic() + LAG_INTERVAL_S
            await asyncio.sleep(LAG_INTERVAL_S)
            self._lag_s = max(time.monotonic() - due, 0.0)
            self._lag.set(self._lag_s)


def _json(body: dict[str, Any], *, status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(body) + "\n", status=status, content_type="application/json")
