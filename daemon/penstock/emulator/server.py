"""The emulator as a server: its gRPC services on one port, its clockwork, and the process around it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import grpc
import uvloop

from penstock.clock import Clock, boottime
from penstock.emulator.broker import Broker
from penstock.emulator.control import Call, publisher_calls, subscriber_calls
from penstock.emulator.data_plane import DataPlane
from penstock.emulator.fault_http import FaultServer
from penstock.emulator.faults import Faults
from penstock.emulator.refusal import STREAM_TOO_OLD, Refused
from penstock.emulator.settings import EmulatorSettings

PUBLISHER = "google.pubsub.v1.Publisher"
SUBSCRIBER = "google.pubsub.v1.Subscriber"

# How often deadlines are looked at; the service is no more exact.
_TICK_S = 0.05

# Large frames: a response of 1 MiB in one piece. No limit on messages: the service's limits are checked by handlers.
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.http2.max_frame_size", 1 << 20),
    ("grpc.http2.lookahead_bytes", 1 << 22),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),
)

Unary = Callable[[bytes, Any], Awaitable[bytes]]


class Emulator:
    """An embedded Pub/Sub: `async with Emulator() as emulator:` serves on `emulator.address` until the block ends.

    `clock` and `wall` are for tests: seconds for deadlines, and seconds since 1970 for publish times. `faults` plans
    faults, in process always, over HTTP (`http_port`) only when `faults=True`. Leaving the block cuts all calls.
    """

    def __init__(  # noqa: PLR0913  # the settings one by one, as tests write them
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        http_port: int | None = None,
        faults: bool = False,
        stream_close_after_s: float | None = None,
        clock: Clock = boottime,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.settings = EmulatorSettings(
            port=port, host=host, http_port=http_port, faults=faults, stream_close_after_s=stream_close_after_s
        )
        self.broker = Broker(clock, wall)
        self.faults = Faults(self.broker)
        self.faults.methods.add("StreamingPull")
        self.port = port
        self.http_address: str | None = None
        self._data_plane = DataPlane(self.broker, self.faults)
        self._stack = AsyncExitStack()

    @property
    def address(self) -> str:
        """`host:port`, as in PUBSUB_EMULATOR_HOST."""
        return f"{self.settings.host}:{self.port}"

    async def __aenter__(self) -> Self:
        """Serve. Raises `OSError` when the port is taken."""
        async with AsyncExitStack() as stack:
            server = grpc.aio.server(options=_OPTIONS)
            server.add_generic_rpc_handlers(tuple(self._services()))
            try:
                self.port = server.add_insecure_port(f"{self.settings.host}:{self.settings.port}")
            except RuntimeError as error:
                raise OSError(f"cannot listen on {self.settings.host}:{self.settings.port} ({error})") from error
            self.faults.port = self.port
            await server.start()
            stack.push_async_callback(server.stop, None)
            if self.settings.http_port is not None:
                http = FaultServer(self.faults, with_faults=self.settings.faults)
                self.http_address = await stack.enter_async_context(
                    http.serving(self.settings.host, self.settings.http_port)
                )
            group = await stack.enter_async_context(asyncio.TaskGroup())
            ticker = group.create_task(self._tick())
            stack.callback(ticker.cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop serving at once; what was published is gone."""
        await self._stack.__aexit__(kind, error, trace)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self.broker.tick()
            self._close_old_streams()

    def _close_old_streams(self) -> None:
        limit_s = self.settings.stream_close_after_s
        if limit_s is None:
            return
        opened_before = self.broker.clock() - limit_s
        for found in self.broker.subscriptions.values():
            for stream in found.subscription.streams.values():
                if stream.opened_at <= opened_before:
                    stream.end(Refused(grpc.StatusCode.UNAVAILABLE, STREAM_TOO_OLD))

    # --- handlers ---------------------------------------------------------------------------------------------------

    def _services(self) -> list[grpc.GenericRpcHandler]:
        data = self._data_plane
        publisher = {
            "Publish": self._unary("Publish", data.publish),
            **{name: self._control(name, call) for name, call in publisher_calls(self.broker).items()},
        }
        subscriber = {
            "StreamingPull": grpc.stream_stream_rpc_method_handler(self._streaming_pull),
            "Pull": self._unary("Pull", data.pull),
            "Acknowledge": self._unary("Acknowledge", data.acknowledge),
            "ModifyAckDeadline": self._unary("ModifyAckDeadline", data.modify),
            **{name: self._control(name, call) for name, call in subscriber_calls(self.broker).items()},
        }
        return [
            grpc.method_handlers_generic_handler(PUBLISHER, publisher),
            grpc.method_handlers_generic_handler(SUBSCRIBER, subscriber),
        ]

    def _unary(self, name: str, handler: Unary) -> grpc.RpcMethodHandler:
        async def handle(request: bytes, context: Any) -> bytes:
            try:
                await self.faults.before(name)
                return await handler(request, context)
            except Refused as refused:
                await _abort(context, refused)
                raise

        self.faults.methods.add(name)
        return grpc.unary_unary_rpc_method_handler(handle)

    def _control(self, name: str, call: Call) -> grpc.RpcMethodHandler:
        act, kind = call

        async def handle(request: bytes, _context: Any) -> bytes:
            reply: bytes = act(kind.FromString(request)).SerializeToString()
            return reply

        return self._unary(name, handle)

    async def _streaming_pull(self, requests: AsyncIterator[bytes], context: Any) -> None:
        try:
            await self.faults.before("StreamingPull")
            await self._data_plane.streaming_pull(requests, context)
        except Refused as refused:
            await _abort(context, refused)


async def _abort(context: Any, refused: Refused) -> None:
    await context.abort(refused.code, refused.message, refused.trailing_metadata)


def run(settings: EmulatorSettings) -> None:
    """Serve until SIGTERM or SIGINT, and print the address on standard output when ready."""
    uvloop.run(_serve(settings))


async def _serve(settings: EmulatorSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    emulator = Emulator(
        settings.port,
        host=settings.host,
        http_port=settings.http_port,
        faults=settings.faults,
        stream_close_after_s=settings.stream_close_after_s,
    )
    async with emulator:
        http = f" (HTTP on {emulator.http_address})" if emulator.http_address else ""
        # Scripts wait for this line.
        print(  # noqa: T201
            f"Pub/Sub emulator on {emulator.address}{http}: set PUBSUB_EMULATOR_HOST={emulator.address}", flush=True
        )
        await stop.wait()
