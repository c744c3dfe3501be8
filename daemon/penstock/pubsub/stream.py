"""One line of pull streams: opened, read, kept alive, reopened."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias

import grpc
import grpc.aio
import pyarrow as pa

from penstock.clock import Clock
from penstock.errors import SubscriptionFailed
from penstock.pubsub import wire
from penstock.pubsub.backoff import Backoff
from penstock.pubsub.channel import PubSubChannel
from penstock.pubsub.gate import Gate
from penstock.pubsub.gathering import Gathering
from penstock.pubsub.turns import Turn
from penstock.pubsub.verdict import HEALTHY_S, Ending, Pulse, Sign, Verdict, Vigil, judge
from penstock.reservoir.ports import ChunkSink
from penstock.settings import PubSubSettings
from penstock.telemetry import events

LOOK_S = 5.0
"""How often a stream's life signs are looked at: how late a keep-alive or the end of a silent stream may be."""

WINDOW_BYTES = 8 << 20
"""At most about this much of a stream waits in gRPC's buffers while it is not read: its window and one response."""

AGED_S = 2.0
"""What waited there is read within this once the stream is read again, at 4 MB/s or more. What comes later was sent
later: to think it as old as the pause would make it lapse at once, and again whenever it is delivered."""

GIVE_BACK_S = 0.5
"""How long a stream that is closed unread is waited for, to give back what it held."""

WRITE_FAILED = "Internal error from Core"
"""What grpc.aio says when a write meets the end of its call, in place of the service's own status. It is taken for
what the service said before; the next try hears more."""

KEEP_ALIVE_WRITE_S = 10.0
"""A stream that does not take a keep-alive of a few bytes for so long is dead: its window would have been full."""

_MESSAGES = b"\x0a"
"""The tag of `received_messages`, the first field: a response without it has no messages."""

_LONG = 4.0
"""RESOURCE_EXHAUSTED backs off this many times longer: the quota of a whole project is shared."""

Call: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"


@dataclass
class PullStatistics:
    """Counts since the start. `all_open_since` is the clock's time, None while a stream is not open.

    `outstanding_bytes`: what the service may send on the open ones before anything is acknowledged.
    """

    streams: int = 0
    outstanding_bytes: int = 0
    all_open_since: float | None = None
    responses: int = 0
    messages: int = 0
    bytes: int = 0
    undecodable: int = 0
    reconnects: int = 0

    def figures(self) -> dict[str, float | None]:
        """For `status` and metrics."""
        return asdict(self)


@dataclass(frozen=True)
class Shared:
    """What the pull streams of a subscription share."""

    channel: PubSubChannel
    subscription: str
    settings: PubSubSettings
    sink: ChunkSink
    first_request: Callable[[int], bytes]
    max_outstanding_bytes: Callable[[], int]
    clock: Clock
    rng: random.Random
    statistics: PullStatistics
    gathering: Gathering
    vigil: Vigil
    gate: Gate
    release: Callable[[Sequence[pa.Array]], None] | None
    learn: Callable[[wire.Properties], None]


class PullStream:
    """One pull stream after another under one number. Its owner runs `run` and `stay_alive` together."""

    def __init__(self, number: int, shared: Shared) -> None:
        self.number = number
        self.open_since: float | None = None
        self.outstanding_bytes = 0
        self.interval_bytes = 0
        self._shared = shared
        self._call: Call | None = None
        self._turn: Turn | None = None
        self._pulse = Pulse(shared.clock())
        self._backoff = Backoff(shared.rng)
        self._aged_bytes = 0
        self._aged_since = self._aged_until = 0.0
        self._pauses = 0
        """Of the process, as far as this stream has heard of them."""
        self._undecodable = False
        self._hasty_at = float("-inf")
        self._last_words: tuple[grpc.StatusCode, str] | None = None
        """Of the service, when it last ended a stream."""
        self._leaving = False
        self._patience: asyncio.Timeout | None = None
        """How long it stands still, while it does."""

    async def run(self) -> None:
        """Keep one stream open. Raises `SubscriptionFailed`. Cancellation closes it; what was read is handed over."""
        shared = self._shared
        await asyncio.sleep(shared.rng.uniform(0, shared.settings.jitter_ms / 1000))
        pause_s = 0.0
        while True:
            with await shared.gate.turn(pause_s) as self._turn:
                if self._leaving:
                    return
                verdict = await self._attempt(self._turn)
            if self._leaving:
                return
            shared.statistics.reconnects += 1
            pause_s = 0.0
            if verdict is Verdict.RESUME:
                await shared.sink.wait_resumed()
            elif verdict is not Verdict.NOW:
                pause_s = self._backoff.next_s(scale=_LONG if verdict is Verdict.BACK_OFF_LONG else 1)

    async def leave(self) -> bool:
        """Half-close, so that the service sends no more and `run` ends once it has read what is on its way.

        One that stands still gives back what is on its way instead. False when there is no open stream. A cancelled
        stream would keep what it had not read till its deadline.
        """
        self._leaving = True
        if self._patience is not None:
            self._patience.reschedule(0)
        if self._call is None:
            return False
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._call.done_writing()
        return True

    async def stay_alive(self) -> None:
        """Say that we are here; close a stream that has been silent for too long."""
        while True:
            await asyncio.sleep(LOOK_S)
            call, now = self._call, self._shared.clock()
            if call is None or self.open_since is None:
                continue
            if self._turn is not None and now - self.open_since >= HEALTHY_S:
                self._turn.worked()  # the service has taken it, and has nothing to send
            sign = self._pulse.sign(now, paused=self._shared.sink.paused)
            if sign is Sign.GIVE_UP:
                events.StreamSilent(subscription=self._shared.subscription, stream=self.number).emit()
                call.cancel()
            elif sign is Sign.KEEP_ALIVE:
                self._pulse.say(now)
                await _write_keep_alive(call)

    async def _attempt(self, turn: Turn) -> Verdict:
        """One stream from its opening to its end. Raises `SubscriptionFailed`."""
        shared = self._shared
        started = shared.clock()
        pulse = self._pulse = Pulse(started)
        self._undecodable = False
        shared.vigil.runs(started)
        self._pauses = shared.vigil.pauses
        with shared.channel.streaming_pull() as call:
            self._call = call
            events.StreamOpened(subscription=shared.subscription, stream=self.number).emit()
            try:
                self.outstanding_bytes = shared.max_outstanding_bytes()
                await call.write(shared.first_request(self.outstanding_bytes))
                self.open_since = shared.clock()
                if await self._read(call, turn):
                    await self._give_back(call)
                    return Verdict.RESUME
                code, details = await call.code(), await call.details() or ""
            except grpc.aio.AioRpcError as error:
                code, details = error.code(), error.details() or ""
            except asyncio.CancelledError:
                if _being_cancelled():
                    raise
                code, details = grpc.StatusCode.CANCELLED, "closed by this side"
            finally:
                self._call = self.open_since = None
                self.outstanding_bytes = 0
                self._aged_bytes = 0
                shared.gathering.decode()
        if details == WRITE_FAILED:
            code, details = self._last_words or (code, details)
        else:
            self._last_words = (code, details)
        now = shared.clock()
        return self._judge(Ending(code, details, now - started, pulse.heard, now - self._hasty_at), turn)

    def _judge(self, ending: Ending, turn: Turn) -> Verdict:
        """Act on what the end of a stream means. Raises `SubscriptionFailed`."""
        name, verdict = self._shared.subscription, judge(ending)
        if self._undecodable:
            return Verdict.BACK_OFF
        code, details = ending.code.name, ending.details
        if verdict is Verdict.FATAL:
            turn.worked()
            events.SubscriptionFailed(subscription=name, code=code, error=details).emit()
            raise SubscriptionFailed(f"{name}: {code}: {details}", subscription=name, service_code=code)
        events.StreamClosed(subscription=name, stream=self.number, code=code, error=details).emit()
        if verdict is Verdict.NOW:
            self._backoff.reset()
            if not ending.healthy:
                self._hasty_at = self._shared.clock()
        else:
            turn.failed(code, details)
        return verdict

    async def _read(self, call: Call, turn: Turn) -> bool:
        """Read to the end of the stream; True when it was not read for so long that it must be closed."""
        sink, clock, pulse, gathering = self._shared.sink, self._shared.clock, self._pulse, self._shared.gathering
        statistics, read, refuse, vigil = self._shared.statistics, call.read, self._refuse, self._shared.vigil
        while True:
            if sink.paused and not self._leaving:
                gathering.decode()
                if not await self._stand_still():
                    return True
            raw = await read()
            if raw is grpc.aio.EOF:
                return False
            size = len(raw)
            self.interval_bytes += size
            statistics.bytes += size
            statistics.responses += 1
            if not pulse.heard:
                turn.worked()
                self._learn(raw)
            now = clock()
            vigil.runs(now)
            if vigil.pauses != self._pauses:
                self._pauses = vigil.pauses
                self._age(vigil.since, now)
            pulse.hear(now, empty=not raw.startswith(_MESSAGES))
            if self._aged_bytes > 0 and now < self._aged_until:
                self._aged_bytes -= size
                gathering.add(raw, refuse, received_at=self._aged_since)
            else:
                gathering.add(raw, refuse)

    async def _stand_still(self) -> bool:
        """Wait until messages are welcome.

        False after half the ack deadline, when what is unread gets too old, and when the stream is to leave.
        """
        shared, since = self._shared, self._shared.clock()
        try:
            async with asyncio.timeout(shared.settings.ack_deadline_s / 2) as self._patience:
                await shared.sink.wait_resumed()
        except TimeoutError:
            return False
        finally:
            self._patience = None
        now = shared.clock()
        self._pulse.resume(now)
        self._age(since, now)
        return True

    def _age(self, since: float, now: float) -> None:
        """What comes next was received at `since` and only not read."""
        if self._aged_bytes > 0 and now < self._aged_until:
            since = min(since, self._aged_since)
        self._aged_since, self._aged_until, self._aged_bytes = since, now + AGED_S, WINDOW_BYTES

    async def _give_back(self, call: Call) -> None:
        """Release what a stream holds that was not read in time, so that it comes again before its deadline.

        Half-closed first: reading makes room, and the service would fill it again.
        """
        release = self._shared.release
        if release is None:
            return
        held: list[pa.Array] = []
        with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
            async with asyncio.timeout(GIVE_BACK_S):
                await call.done_writing()
                while (raw := await call.read()) is not grpc.aio.EOF:
                    held += [one.ack_ids for one in wire.decode_each([raw]) if isinstance(one, wire.Decoded)]
        release(held)

    def _learn(self, response: bytes) -> None:
        """The properties of the subscription, from the first response of a stream."""
        with contextlib.suppress(wire.Undecodable):  # whoever decodes it says so
            found = wire.properties(response)
            if found is not None:
                self._shared.learn(found)

    def _refuse(self, error: wire.Undecodable) -> None:
        """Drop a response unacknowledged and give up the stream it came on."""
        self._shared.statistics.undecodable += 1
        events.ResponseUndecodable(subscription=self._shared.subscription, stream=self.number, error=str(error)).emit()
        self._undecodable = True
        if self._call is not None:
            self._call.cancel()


async def _write_keep_alive(call: Call) -> None:
    """Send one. A stream that has ended is `run`'s to judge; one that takes no byte for so long is ended here."""
    try:
        async with asyncio.timeout(KEEP_ALIVE_WRITE_S):
            await call.write(wire.HEARTBEAT)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass
    except TimeoutError:
        call.cancel()
    except asyncio.CancelledError:
        if _being_cancelled():
            raise


def _being_cancelled() -> bool:
    """Whether this task was asked to end, and not only its gRPC call."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
