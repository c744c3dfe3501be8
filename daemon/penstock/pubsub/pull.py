"""The pull streams of one subscription: opened, read, kept alive, reopened, more or fewer of them."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import grpc
import grpc.aio

from penstock.clock import Clock
from penstock.errors import SubscriptionFailed
from penstock.pubsub import wire
from penstock.pubsub.backoff import Backoff
from penstock.pubsub.channel import PubSubChannel
from penstock.reservoir.ports import ChunkSink
from penstock.settings import PubSubSettings
from penstock.telemetry import events

DECODE_BYTES = 1 << 20
"""Responses are decoded together up to this size: 0.3 ms under the interpreter's lock, the cost of a call spread."""

LINGER_S = 0.002
"""How long responses of a busy stream wait for more before they are decoded."""

IDLE_S = 0.005
"""A stream that decoded nothing for this long is not busy: its next response is decoded at once."""

KEEP_ALIVE_S = 30.0
SILENT_S = KEEP_ALIVE_S + 15.0
"""A server that answers keep-alives (protocol version 1) and is silent for this long is gone; Google's Java client
waits as long."""
SILENT_WITHOUT_HEARTBEATS_S = 600.0

HEALTHY_S = 10.0
"""A stream that lasted this long, or brought anything, was healthy: the server's reset says nothing about the next."""

SCALE_INTERVAL_S = 5.0
STREAM_BYTES_PER_S = 10_000_000
"""What the service sends on one pull stream (https://cloud.google.com/pubsub/quotas)."""
BUSY, IDLE = 0.7, 0.1

EXHAUSTED_SCALE = 4.0
"""RESOURCE_EXHAUSTED backs off this much longer: the quota of a whole project is shared."""

WINDOW_BYTES = 8 << 20
"""At most this much of a stream waits in gRPC's buffers while it is not read, and is older than it looks."""

FATAL = {
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.INVALID_ARGUMENT,
}


class Verdict(enum.Enum):
    """What an attempt at a stream says about the next one."""

    NOW = "now"
    BACK_OFF = "back off"
    BACK_OFF_LONG = "back off long"
    RESUME = "when messages are welcome again"


@dataclass
class PullStatistics:
    """Counts since the start. `all_open_since` is the clock's time, None while a stream is not open."""

    streams: int = 0
    all_open_since: float | None = None
    responses: int = 0
    messages: int = 0
    bytes: int = 0
    undecodable: int = 0
    reconnects: int = 0

    def figures(self) -> dict[str, float | None]:
        """For `status` and metrics."""
        return asdict(self)


def autoscale(bytes_per_s: Sequence[float], *, least: int, most: int) -> int:
    """+1, 0 or -1 stream, from the rate of each over the last interval."""
    if len(bytes_per_s) < most and all(rate >= BUSY * STREAM_BYTES_PER_S for rate in bytes_per_s):
        return 1
    if len(bytes_per_s) > least and any(rate <= IDLE * STREAM_BYTES_PER_S for rate in bytes_per_s):
        return -1
    return 0


def is_fatal(code: grpc.StatusCode, details: str) -> bool:
    """Whether no later attempt can succeed before somebody mends something."""
    return code in FATAL or (code is grpc.StatusCode.FAILED_PRECONDITION and "detach" in details.lower())


class PullStream:
    """One pull stream after another under one number, until cancelled."""

    def __init__(self, number: int, puller: Puller) -> None:
        self.number = number
        self.open_since: float | None = None
        self.interval_bytes = 0
        self._puller = puller
        self._call: grpc.aio.StreamStreamCall[bytes, bytes] | None = None
        self._backoff = Backoff(puller.rng)
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._timer: asyncio.Handle | None = None
        self._decoded_at = 0.0
        self._heard_at = 0.0
        self._heartbeats = False
        self._stale_bytes = 0
        self._stale_since = 0.0
        self._undecodable = False

    async def run(self) -> None:
        """Keep one stream open. Raises `SubscriptionFailed`. Cancellation closes it; what was read is handed over."""
        puller = self._puller
        await asyncio.sleep(puller.rng.uniform(0, puller.settings.jitter_ms / 1000))
        while True:
            verdict = await self._attempt()
            puller.statistics_.reconnects += 1
            if verdict is Verdict.RESUME:
                await puller.sink.wait_resumed()
            elif verdict is not Verdict.NOW:
                await asyncio.sleep(
                    self._backoff.next_s(scale=EXHAUSTED_SCALE if verdict is Verdict.BACK_OFF_LONG else 1)
                )

    async def keep_alive(self, now: float) -> None:
        """Say that we are here; close a stream that has been silent past its bound and is not paused."""
        call = self._call
        if call is None or self.open_since is None:
            return
        bound = SILENT_S if self._heartbeats else SILENT_WITHOUT_HEARTBEATS_S
        if now - max(self._heard_at, self.open_since) > bound and not self._puller.sink.paused:
            events.StreamSilent(subscription=self._puller.subscription, stream=self.number).emit()
            call.cancel()
            return
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await call.write(wire.HEARTBEAT)

    async def _attempt(self) -> Verdict:
        puller = self._puller
        self._heartbeats = self._undecodable = False
        started = self._heard_at = puller.clock()
        self._call = call = puller.channel.streaming_pull()()
        events.StreamOpened(subscription=puller.subscription, stream=self.number).emit()
        try:
            await call.write(puller.first_request)
            self.open_since = puller.clock()
            stood_still = await self._read(call)
            if stood_still:
                return Verdict.RESUME
            code, details = await call.code(), await call.details() or ""
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details() or ""
        except asyncio.CancelledError:
            if _being_cancelled():
                raise
            code, details = (
                grpc.StatusCode.CANCELLED,
                "closed by this side",
            )  # `keep_alive` or `_flush` cancelled the call
        finally:
            self._flush()
            self._call = self.open_since = None
            call.cancel()
        return self._judge(code, details, healthy=puller.clock() - started >= HEALTHY_S or self._heard_at > started)

    def _judge(self, code: grpc.StatusCode, details: str, *, healthy: bool) -> Verdict:
        """What the end of a stream means. Raises `SubscriptionFailed`."""
        name = self._puller.subscription
        if self._undecodable:
            return Verdict.BACK_OFF
        if is_fatal(code, details):
            events.SubscriptionFailed(subscription=name, code=code.name, error=details).emit()
            raise SubscriptionFailed(f"{name}: {code.name}: {details}", subscription=name, service_code=code.name)
        events.StreamClosed(subscription=name, stream=self.number, code=code.name, error=details).emit()
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Verdict.BACK_OFF_LONG
        if healthy:
            self._backoff.reset()
            return Verdict.NOW
        return Verdict.BACK_OFF

    async def _read(self, call: grpc.aio.StreamStreamCall[bytes, bytes]) -> bool:
        """Read to the end of the stream; True when it was not read for so long that it had to be closed."""
        sink, clock = self._puller.sink, self._puller.clock
        while True:
            if sink.paused:
                self._flush()
                if not await self._stand_still():
                    return True
            raw = await call.read()
            if raw is grpc.aio.EOF:
                return False
            self._heard_at = clock()
            self._take(raw)

    async def _stand_still(self) -> bool:
        """Wait until messages are welcome; False after half the ack deadline, when what is unread gets too old."""
        self._stale_since = self._puller.clock()
        try:
            async with asyncio.timeout(self._puller.settings.ack_deadline_s / 2):
                await self._puller.sink.wait_resumed()
        except TimeoutError:
            return False
        self._stale_bytes = WINDOW_BYTES
        return True

    def _take(self, raw: bytes) -> None:
        self._waiting.append(raw)
        self._waiting_bytes += len(raw)
        if self._waiting_bytes >= DECODE_BYTES:
            self._flush()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            busy = self._heard_at - self._decoded_at < IDLE_S
            self._timer = loop.call_later(LINGER_S, self._flush) if busy else loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Decode what waits and hand it over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiting:
            return
        responses, self._waiting = self._waiting, []
        size, self._waiting_bytes = self._waiting_bytes, 0
        puller = self._puller
        self._decoded_at = now = puller.clock()
        if self._stale_bytes > 0:
            self._stale_bytes -= size
            now = self._stale_since
        try:
            decoded = [wire.decode(responses)]
        except wire.Undecodable:
            decoded = self._decode_each(responses)
        rows = 0
        for part in decoded:
            if part.rows.num_rows:
                rows += part.rows.num_rows
                puller.sink.receive(part.rows, part.ack_ids, now)
        self._heartbeats = self._heartbeats or rows == 0
        self.interval_bytes += size
        puller.count(len(responses), rows, size)

    def _decode_each(self, responses: list[bytes]) -> list[wire.Decoded]:
        """The good responses; the bad ones are dropped unacknowledged, and the stream they came on is given up."""
        good, bad = wire.decode_each(responses)
        for error in bad:
            self._puller.statistics_.undecodable += 1
            events.ResponseUndecodable(
                subscription=self._puller.subscription, stream=self.number, error=str(error)
            ).emit()
        self._undecodable = True
        if self._call is not None:
            self._call.cancel()
        return good


class Puller:
    """All pull streams of one subscription."""

    def __init__(  # noqa: PLR0913 - composed in one place
        self,
        channel: PubSubChannel,
        subscription: str,
        settings: PubSubSettings,
        sink: ChunkSink,
        *,
        max_outstanding_bytes: int,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self.channel = channel
        self.subscription = subscription
        self.settings = settings
        self.sink = sink
        self.clock = clock
        self.rng = rng
        self.statistics_ = PullStatistics()
        self.first_request = wire.first_pull_request(
            subscription,
            ack_deadline_s=settings.ack_deadline_s,
            client_id=uuid.uuid4().hex,
            max_outstanding_bytes=max_outstanding_bytes,
        )
        self._streams: dict[PullStream, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Pull until cancelled. Raises `SubscriptionFailed` in a group. Cancellation closes all streams."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self.settings.min_streams):
                    self._open(tasks)
                tasks.create_task(self._keep_alive())
                while True:
                    await asyncio.sleep(SCALE_INTERVAL_S)
                    self._scale(tasks)
        finally:
            self._streams.clear()

    def statistics(self) -> PullStatistics:
        """Counts so far, and what is open now."""
        self.statistics_.streams = len(self._streams)
        since = [stream.open_since for stream in self._streams]
        opened = [at for at in since if at is not None]
        self.statistics_.all_open_since = max(opened) if opened and len(opened) == len(since) else None
        return self.statistics_

    def count(self, responses: int, messages: int, size: int) -> None:
        """Count one decode."""
        self.statistics_.responses += responses
        self.statistics_.messages += messages
        self.statistics_.bytes += size

    def _open(self, tasks: asyncio.TaskGroup) -> None:
        stream = PullStream(len(self._streams), self)
        self._streams[stream] = tasks.create_task(stream.run())

    def _scale(self, tasks: asyncio.TaskGroup) -> None:
        rates = [stream.interval_bytes / SCALE_INTERVAL_S for stream in self._streams]
        for stream in self._streams:
            stream.interval_bytes = 0
        change = autoscale(rates, least=self.settings.min_streams, most=self.settings.max_streams)
        if change > 0 and not self.sink.paused:
            self._open(tasks)
        elif change < 0:
            stream, task = self._streams.popitem()
            task.cancel()

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(KEEP_ALIVE_S)
            now = self.clock()
            for stream in list(self._streams):
                await stream.keep_alive(now)


def _being_cancelled() -> bool:
    """Whether this task was asked to end, and not only its gRPC call."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
