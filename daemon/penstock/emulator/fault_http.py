"""The emulator over HTTP: statistics always, faults only when the emulator was started with them."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from penstock.emulator.faults import Faults
from penstock.emulator.refusal import Refused


class FaultServer:
    """`GET /statistics?subscription=NAME`, and `POST /faults/NAME` with the arguments of that method of `Faults`.

    Both answer JSON `{"result": ...}`, or `{"error": ...}` with status 400.
    """

    def __init__(self, faults: Faults, *, with_faults: bool) -> None:
        self._faults = faults
        self._acts: dict[str, Callable[..., Any]] = {
            "fail": faults.fail,
            "delay": faults.delay,
            "cut_streams": faults.cut_streams,
            "cut_connections": faults.cut_connections,
            "drop_acks": faults.drop_acks,
            "redeliver": faults.redeliver,
            "garble": faults.garble,
            "clear": faults.clear,
        }
        self._with_faults = with_faults

    @asynccontextmanager
    async def serving(self, host: str, port: int) -> AsyncIterator[str]:
        """Serve within the block; yields `host:port`."""
        app = web.Application()
        app.add_routes([web.get("/statistics", self._statistics)])
        if self._with_faults:
            app.add_routes([web.post("/faults/{name}", self._fault)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
            yield f"{host}:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    async def _statistics(self, request: web.Request) -> web.Response:
        return _answer(self._faults.statistics, request.query)

    async def _fault(self, request: web.Request) -> web.Response:
        act = self._acts.get(request.match_info["name"])
        if act is None:
            return web.json_response({"error": f"no such fault; there are {', '.join(self._acts)}"}, status=404)
        try:
            arguments = await request.json()
        except ValueError as error:
            return web.json_response({"error": f"the body is not JSON ({error})"}, status=400)
        return _answer(act, arguments)


def _answer(act: Callable[..., Any], arguments: Any) -> web.Response:
    try:
        inspect.signature(act).bind(**arguments)
        return web.json_response({"result": act(**arguments)})
    except (TypeError, Refused) as error:
        return web.json_response({"error": str(error)}, status=400)
