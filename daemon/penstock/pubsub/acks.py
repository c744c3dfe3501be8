"""Acknowledgements, lease extensions and releases of one subscription: pending until the service said OK."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence

import grpc
import grpc.aio
import pyarrow as pa

from penstock.clock import Clock
from penstock.pubsub import wire
from penstock.pubsub.channel import PubSubChannel
from penstock.pubsub.errand import Accounts, AckStatistics, Call, Wait
from penstock.pubsub.gate import Gate
from penstock.pubsub.refusal import Refusal
from penstock.pubsub.rpc_error import refusal
from penstock.pubsub.settling import CALL_TIMEOUT_S, Sender, Settling
from penstock.reservoir.ports import AckOutcome
from penstock.telemetry import events


class AckQueue:
    """Satisfies `reservoir.ports.AckSink`. Nothing is sent before `run`.

    Does what `Settling` decides. Requests are encoded just before they are sent, so that what waits is in memory once.
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
        rng = rng or random.Random()  # noqa: S311 - jitter, not secrets
        self._subscription = subscription
        self._acknowledge = channel.unary("Subscriber", "Acknowledge")
        self._modify = channel.unary("Subscriber", "ModifyAckDeadline")
        self.ack_gate = Gate("acknowledge", subscription, clock=clock, rng=rng)
        self.lease_gate = Gate("modify", subscription, clock=clock, rng=rng, deadline_s=deadline_s)
        self._settling = Settling(
            Accounts(subscription, clock=clock, rng=rng, base_backoff_s=base_backoff_s),
            deadline_s=deadline_s,
            ack_turns=self.ack_gate,
            lease_turns=self.lease_gate,
        )
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def __repr__(self) -> str:
        """Such as `<AckQueue projects/p/subscriptions/s: 2500 pending>`."""
        return f"<AckQueue {self._subscription}: {self.pending_ids} pending>"

    def acknowledge(self, ack_ids: Sequence[pa.Array], settled: Callable[[AckOutcome], None]) -> None:
        """See `AckSink`."""
        self._settling.acknowledge(ack_ids, settled)
        self._added()

    def extend(self, ack_ids: Sequence[pa.Array], settled: Callable[[bool], None]) -> None:
        """See `AckSink`. One attempt: the caller knows when the next one is due."""
        self._settling.extend(ack_ids, settled)
        self._added()

    def release(self, ack_ids: Sequence[pa.Array], settled: Callable[[], None] = lambda: None) -> None:
        """See `AckSink`."""
        self._settling.release(ack_ids, settled)
        self._added()

    async def run(self) -> None:
        """Send until cancelled. Cancellation drops what is pending: `flush` comes first."""
        async with asyncio.TaskGroup() as tasks:
            for sender in self._settling.senders:
                tasks.create_task(self._send(sender))

    async def flush(self, timeout_s: float) -> int:
        """Wait until nothing is pending or the time is up; the number of IDs still pending."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        return self.pending_ids

    @property
    def pending_ids(self) -> int:
        """IDs not confirmed yet, of every kind."""
        return self._settling.pending_ids

    @property
    def pending_bytes(self) -> int:
        """Memory that they refer to; their chunks share it as long as they live."""
        return self._settling.pending_bytes

    def statistics(self) -> AckStatistics:
        """Counts so far."""
        return self._settling.statistics()

    def _added(self) -> None:
        if self.pending_ids:
            self._idle.clear()
            self._work.set()

    async def _send(self, sender: Sender) -> None:
        """Whatever there is to send, for as long as the queue runs."""
        while True:
            try:
                while await self._move(sender):
                    pass
            except Exception as defect:  # noqa: BLE001
                # Supervision: whatever it was, the IDs wait again, and nobody else's subscription suffers for it.
                events.IngestFailed.of(self._subscription, "acks", defect).emit()
                await asyncio.sleep(sender.pause_s())
                continue
            # Nothing was awaited since it found no work, so none that comes is missed.
            if not self.pending_ids:
                self._idle.set()
                self._settling.rest()
            self._work.clear()
            await self._work.wait()

    async def _move(self, sender: Sender) -> bool:
        """One move; False: there is none. Its own frame, so that an idle sender keeps nothing of the last one alive.

        What it raises, cancellation too, leaves its IDs in their line.
        """
        try:
            move = sender.next()
            if isinstance(move, Call):
                sender.heard(await self._call(move))
            elif move is not None:
                await self._wait(move)
        except BaseException:
            sender.put_back()
            raise
        return move is not None

    async def _wait(self, move: Wait) -> None:
        if isinstance(move.turns, Gate):
            await move.turns.wait(move.seconds)
        else:
            await asyncio.sleep(move.seconds)

    async def _call(self, move: Call) -> Refusal | None:
        """One call; what it refused, or None."""
        if move.deadline_s is None:
            call, encoded = self._acknowledge, wire.encode_acknowledge(self._subscription, move.ack_ids)
        else:
            call = self._modify
            encoded = wire.encode_modify_ack_deadline(self._subscription, move.ack_ids, move.deadline_s)
        try:
            await call(encoded, timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            return refusal(error, move.ack_ids)
        return None
