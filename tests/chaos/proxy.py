"""A TCP proxy whose connections can be cut or stalled."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from typing import Any, Self

PIECE_BYTES = 1 << 16


class Proxy:
    """Listens on `port` of this machine and passes bytes on to `target`; a context manager around a thread."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.StreamWriter] = set()
        self._served: set[asyncio.Task[Any]] = set()
        self._passing_bytes = math.inf
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),), name="proxy")

    def __enter__(self) -> Self:
        """Listen."""
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        """Cut all and stop."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    def cut(self) -> None:
        """Close every connection without a word."""
        self._loop.call_soon_threadsafe(self._cut)

    def stall(self, *, after_bytes: int = 0) -> None:
        """Pass nothing on until `flow`, once so many more bytes went either way.

        Connections stay open, and new ones are taken.
        """
        self._loop.call_soon_threadsafe(self._stall, after_bytes)

    def flow(self) -> None:
        """Pass on again."""
        self._loop.call_soon_threadsafe(self._flow)

    def _stall(self, after_bytes: int) -> None:
        self._passing_bytes = after_bytes
        if not after_bytes:
            self._flowing.clear()

    def _flow(self) -> None:
        self._passing_bytes = math.inf
        self._flowing.set()

    def _cut(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def _run(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        async with server:
            await self._stop.wait()
            self._flow()
            self._cut()
            await asyncio.gather(*self._served, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if task := asyncio.current_task():
            self._served.add(task)
            task.add_done_callback(self._served.discard)
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:  # nobody is there now: the client finds its connection closed
            writer.transport.abort()
            return
        self._open |= {writer, to_writer}
        try:
            await asyncio.gather(self._pass(reader, to_writer), self._pass(to_reader, writer))
        finally:
            self._open -= {writer, to_writer}
            writer.transport.abort()
            to_writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE_BYTES):
                await self._flowing.wait()
                self._passing_bytes -= len(piece)
                if self._passing_bytes <= 0:
                    self._flowing.clear()
                writer.write(piece)
                await writer.drain()
        writer.transport.abort() if writer.transport.is_closing() else writer.close()
