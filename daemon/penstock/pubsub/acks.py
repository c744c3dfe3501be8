"""Acknowledgements, lease extensions and releases of one subscription: pending until the service said OK."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import grpc
import grpc.aio
import numpy as np
import pyarrow as pa

from penstock.clock import Clock
from penstock.pubsub import wire
from penstock.pubsub.backoff import Backoff
from penstock.pubsub.channel import PubSubChannel
from penstock.pubsub.gate import Gate, Turn
from penstock.pubsub.pending import Job, Line, Request
from penstock.pubsub.refusal import Flood, Mask, Refusal, refusal, refused_unsent
from penstock.reservoir.ports import AckOutcome
from penstock.telemetry import events

SENDERS = 6
"""Requests at once of any kind: enough to hide 100 ms of latency at 150,000 acks a second."""
LEASE_SENDERS = 2
"""More of them, for extensions and releases only: acks that back off must not let leases run out."""

ACK_SENDERS = 2
"""Of `SENDERS`, for acks before extensions: an ack ends a lease for good. With none, millions of leases that want to be
extended all the time leave no turn for acks, and what is not acknowledged wants to be extended as well."""

CALL_TIMEOUT_S = 10.0
RELEASE_ATTEMPTS = 3
"""A release that fails this often is left to the deadline, which gives the messages back as well."""


@dataclass
class AckStatistics:
    """Counts of IDs, and of requests, since the start; `pending` ones and their bytes are those of now."""

    acknowledged: int = 0
    extended: int = 0
    released: int = 0
    lost: int = 0
    requests: int = 0
    retries: int = 0
    pending: int = 0
    pending_bytes: int = 0

    def figures(self) -> dict[str, int]:
        """For `status` and metrics."""
        return asdict(self)


class AckQueue:
    """Satisfies `reservoir.ports.AckSink`. Nothing is sent before `run`.

    Requests are encoded just before they are sent, so that what waits is in memory once.
    """

    def __init__(
        self,
        channel: PubSubChannel,
        subscription: str,
        *,
        deadline_s: int,
        clock: Clock,
        rng: random.Random | None = None,
        base_backoff_s: float = 0.1,
    ) -> None:
        self._subscription = subscription
        self._deadline_s = deadline_s
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not secrets
        self._base_backoff_s = base_backoff_s
        self._acknowledge = channel.unary("Subscriber", "Acknowledge")
        self._modify = channel.unary("Subscriber", "ModifyAckDeadline")
        self.ack_gate = Gate("acknowledge", subscription, clock=clock, rng=self._rng)
        self.lease_gate = Gate("modify", subscription, clock=clock, rng=self._rng, deadline_s=deadline_s)
        self._extends, self._acks, self._releases = Line(), Line(), Line()
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._flying_ids = 0
        self._flying_bytes = 0
        self._statistics = AckStatistics()
        self._lost = Flood(clock, functools.partial(_say, events.AcksLost, subscription))
        self._retried = Flood(clock, functools.partial(_say, events.AckRetried, subscription))
        self._failed = Flood(clock, functools.partial(_say, events.ModackFailed, subscription))

    def __repr__(self) -> str:
        """Such as `<AckQueue projects/p/subscriptions/s: 2500 pending>`."""
        return f"<AckQueue {self._subscription}: {self.pending_ids} pending>"

    def acknowledge(self, ack_ids: Sequence[pa.Array], settled: Callable[[AckOutcome], None]) -> None:
        """See `AckSink`."""
        self._add(self._acks, ack_ids, settled)

    def extend(self, ack_ids: Sequence[pa.Array], settled: Callable[[bool], None]) -> None:
        """See `AckSink`. One attempt: the caller knows when the next one is due."""
        self._add(self._extends, ack_ids, lambda outcome: settled(outcome.lost == 0))

    def release(self, ack_ids: Sequence[pa.Array], settled: Callable[[], None] = lambda: None) -> None:
        """See `AckSink`."""
        self._add(self._releases, ack_ids, lambda _outcome: settled())

    async def run(self) -> None:
        """Send until cancelled. Cancellation drops what is pending: `flush` comes first."""
        async with asyncio.TaskGroup() as tasks:
            # Extensions first, mostly: a lease that runs out undoes the most.
            for _ in range(LEASE_SENDERS):
                tasks.create_task(self._sender((self._extends, self._releases)))
            for _ in range(ACK_SENDERS):
                tasks.create_task(self._sender((self._acks, self._extends, self._releases)))
            for _ in range(SENDERS - ACK_SENDERS):
                tasks.create_task(self._sender((self._extends, self._acks, self._releases)))

    async def flush(self, timeout_s: float) -> int:
        """Wait until nothing is pending or the time is up; the number of IDs still pending."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        return self.pending_ids

    @property
    def pending_ids(self) -> int:
        """IDs not confirmed yet, of every kind."""
        return self._extends.ids + self._acks.ids + self._releases.ids + self._flying_ids

    @property
    def pending_bytes(self) -> int:
        """Memory that they refer to; their chunks share it as long as they live."""
        return self._extends.bytes + self._acks.bytes + self._releases.bytes + self._flying_bytes

    def statistics(self) -> AckStatistics:
        """Counts so far."""
        return replace(self._statistics, pending=self.pending_ids, pending_bytes=self.pending_bytes)

    def _add(self, line: Line, ack_ids: Sequence[pa.Array], settled: Callable[[AckOutcome], None]) -> None:
        count = sum(len(array) for array in ack_ids)
        if count == 0:
            settled(AckOutcome(0, 0))
            return
        line.put(Job(count, settled), ack_ids)
        self._idle.clear()
        self._work.set()

    async def _sender(self, lines: Sequence[Line]) -> None:
        backoff = Backoff(self._rng, base_s=self._base_backoff_s)
        while True:
            # Nothing is awaited between this look and the wait, so no work that comes is missed.
            line = next((line for line in lines if line.ids), None)
            if line is not None:
                try:
                    await self._send(line)
                except Exception as defect:  # noqa: BLE001
                    # Supervision: whatever it was, the IDs wait again, and nobody else's subscription suffers for it.
                    events.IngestFailed.of(self._subscription, "acks", defect).emit()
                    await asyncio.sleep(backoff.next_s())
                else:
                    backoff.reset()
                continue
            if not self.pending_ids:
                self._idle.set()
                for flood in (self._lost, self._retried, self._failed):
                    flood.flush()
            self._work.clear()
            await self._work.wait()

    async def _send(self, line: Line) -> None:
        """One request. Its own frame, so that an idle sender keeps nothing of the last one alive.

        What it raises, cancellation too, leaves its IDs in their line.
        """
        request = line.take()
        ids, size = len(request.ack_ids), request.ack_ids.nbytes
        self._flying_ids += ids
        self._flying_bytes += size
        try:
            if line is self._acks:
                lost = await self._send_acks(request)
            elif line is self._extends:
                lost = await self._send_extend(request)
            else:
                lost = await self._send_release(request)
        except BaseException:
            line.put_back(request)
            raise
        finally:
            self._flying_ids -= ids
            self._flying_bytes -= size
        request.settle(lost)

    async def _send_acks(self, request: Request) -> Mask:
        """Until every ID is confirmed or refused for good, which is marked in what is returned."""
        backoff = Backoff(self._rng, base_s=self._base_backoff_s)
        lost: Mask = np.zeros(len(request.ack_ids), bool)
        ack_ids, positions, pause_s = request.ack_ids, np.arange(len(lost)), 0.0
        while True:
            with await self.ack_gate.turn(pause_s) as turn:
                encoded = wire.encode_acknowledge(self._subscription, ack_ids)
                refused = await self._try(self._acknowledge, encoded, ack_ids, turn)
            if refused is None:
                break
            lost[positions[refused.lost]] = True
            if refused.lost.any():
                self._lost.add(int(refused.lost.sum()), refused.code, refused.message)
            if not refused.again.any():
                break
            ack_ids, positions = ack_ids.filter(pa.array(refused.again)), positions[refused.again]
            self._statistics.retries += 1
            self._retried.add(len(ack_ids), refused.code, refused.message)
            pause_s = backoff.next_s()
        count = int(lost.sum())
        self._statistics.acknowledged += len(lost) - count
        self._statistics.lost += count
        return lost

    async def _send_extend(self, request: Request) -> Mask:
        """Once, or not at all while such calls fail anyway; what failed is marked."""
        failed: Mask = np.zeros(len(request.ack_ids), bool)
        refused = await self._modify_deadline(request.ack_ids, self._deadline_s)
        if refused is not None:
            # An ID that an exactly-once subscription names as over for good is settled by its ack. It must not take the
            # others of its chunk with it, whose leases were renewed.
            failed = refused.again if refused.by_id else refused.again | refused.lost
        self._statistics.extended += int((~failed).sum())
        return failed

    async def _send_release(self, request: Request) -> Mask:
        """A few times, unless such calls fail anyway; how it ended is nobody's concern."""
        backoff = Backoff(self._rng, base_s=self._base_backoff_s)
        ack_ids = request.ack_ids
        for _ in range(RELEASE_ATTEMPTS):
            refused = await self._modify_deadline(ack_ids, 0)
            if refused is None:
                self._statistics.released += len(ack_ids)
                break
            self._statistics.released += int((~(refused.again | refused.lost)).sum())
            if not refused.again.any():
                break
            ack_ids = ack_ids.filter(pa.array(refused.again))
            await asyncio.sleep(backoff.next_s())
        return np.zeros(len(request.ack_ids), bool)

    async def _modify_deadline(self, ack_ids: pa.Array, seconds: int) -> Refusal | None:
        turn = self.lease_gate.turn_now()
        if turn is None:
            await asyncio.sleep(0)  # thousands of chunks may ask: the loop has others to serve
            refused: Refusal | None = refused_unsent(*self.lease_gate.reason(), len(ack_ids))
        else:
            with turn:
                encoded = wire.encode_modify_ack_deadline(self._subscription, ack_ids, seconds)
                refused = await self._try(self._modify, encoded, ack_ids, turn)
            self._statistics.retries += refused is not None
        if refused is not None:
            self._failed.add(int((refused.again | refused.lost).sum()), refused.code, refused.message)
        return refused

    async def _try(
        self, call: grpc.aio.UnaryUnaryMultiCallable, encoded: bytes, ack_ids: pa.Array, turn: Turn
    ) -> Refusal | None:
        """One call; what it refused, or None."""
        self._statistics.requests += 1
        try:
            await call(encoded, timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            refused = refusal(error, ack_ids)
            if refused.again.all():
                turn.failed(refused.code, refused.message)
            else:
                turn.worked()
            return refused
        turn.worked()
        return None


def _say(
    event: type[events.AcksLost | events.AckRetried | events.ModackFailed],
    subscription: str,
    acks: int,
    code: str,
    error: str,
) -> None:
    event(subscription=subscription, acks=acks, code=code, error=error).emit()
