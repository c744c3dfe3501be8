"""Acknowledgements, lease extensions and releases of one subscription: pending until the service said OK."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import grpc
import grpc.aio
import pyarrow as pa
import pyarrow.compute as pc
from google.rpc import error_details_pb2, status_pb2

from penstock.clock import Clock
from penstock.pubsub import wire
from penstock.pubsub.backoff import Backoff
from penstock.pubsub.channel import PubSubChannel
from penstock.reservoir.ports import AckOutcome
from penstock.telemetry import events

IN_FLIGHT = 8
"""Requests at once: enough to hide 100 ms of latency at 200,000 acks a second."""

CALL_TIMEOUT_S = 10.0
RELEASE_ATTEMPTS = 3
"""A release that fails this often is left to the deadline, which gives the messages back as well."""

# The service will never take these IDs: the subscription is gone, or they are malformed.
_HOPELESS = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION}
_STATUS_DETAILS = "grpc-status-details-bin"


@dataclass
class _Job:
    """One call of the port, until every ID of it is settled."""

    left: int
    settled: Callable[[AckOutcome], None]
    lost: int = 0
    total: int = 0

    def settle(self, count: int, *, lost: int = 0) -> None:
        self.left -= count
        self.lost += lost
        if self.left == 0:
            self.settled(AckOutcome(self.total - self.lost, self.lost))


@dataclass
class _Line:
    """IDs that wait for a request of one kind, in order, with the job of each array."""

    waiting: deque[tuple[_Job, pa.Array]] = field(default_factory=deque)
    ids: int = 0

    def put(self, job: _Job, arrays: Sequence[pa.Array], *, first: bool = False) -> None:
        pieces = [(job, array) for array in arrays if len(array)]
        self.waiting.extendleft(reversed(pieces)) if first else self.waiting.extend(pieces)
        self.ids += sum(len(array) for array in arrays)

    def take(self) -> tuple[pa.Array, list[tuple[_Job, int]]]:
        """The IDs of the next request, and how many belong to which job, in order."""
        arrays, owners, count = [], [], 0
        while self.waiting and count < wire.MAX_IDS:
            job, array = self.waiting.popleft()
            fit = min(len(array), wire.MAX_IDS - count)
            if fit < len(array):
                self.waiting.appendleft((job, array.slice(fit)))
            arrays.append(array.slice(0, fit))
            owners.append((job, fit))
            count += fit
        self.ids -= count
        together = arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)
        request = next(wire.cut(together))
        if len(request) < count:  # unusually long IDs: the bytes are full before the count is
            owners = self._hand_back(together.slice(len(request)), owners, len(request))
        return request, owners

    def _hand_back(self, rest: pa.Array, owners: list[tuple[_Job, int]], keep: int) -> list[tuple[_Job, int]]:
        kept, back, at = [], [], 0
        for job, count in owners:
            mine = max(min(count, keep - at), 0)
            if mine:
                kept.append((job, mine))
            if mine < count:
                back.append((job, count - mine))
            at += count
        start = 0
        pieces = []
        for job, count in back:
            pieces.append((job, rest.slice(start, count)))
            start += count
        self.waiting.extendleft(reversed(pieces))
        self.ids += len(rest)
        return kept


@dataclass
class AckStatistics:
    """Counts of IDs and requests since the start."""

    acknowledged: int = 0
    extended: int = 0
    released: int = 0
    lost: int = 0
    requests: int = 0
    retries: int = 0
    pending: int = 0

    def figures(self) -> dict[str, int]:
        """For `status` and metrics."""
        return asdict(self)


class AckQueue:
    """Satisfies `reservoir.ports.AckSink`. Nothing is sent before `run`."""

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
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not secrets
        self._base_backoff_s = base_backoff_s
        self._acknowledge = channel.unary("Subscriber", "Acknowledge")
        self._modify = channel.unary("Subscriber", "ModifyAckDeadline")
        # In the order of urgency: a lease that runs out undoes the most.
        self._extends, self._acks, self._releases = _Line(), _Line(), _Line()
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._busy = 0
        self._statistics = AckStatistics()

    def acknowledge(self, ack_ids: Sequence[pa.Array], settled: Callable[[AckOutcome], None]) -> None:
        """See `AckSink`."""
        self._add(self._acks, ack_ids, settled)

    def extend(self, ack_ids: Sequence[pa.Array], settled: Callable[[bool], None]) -> None:
        """See `AckSink`. One attempt: the caller knows when the next one is due."""
        self._add(self._extends, ack_ids, lambda outcome: settled(outcome.lost == 0))

    def release(self, ack_ids: Sequence[pa.Array]) -> None:
        """See `AckSink`."""
        self._add(self._releases, ack_ids, _ignore)

    async def run(self) -> None:
        """Send until cancelled. Cancellation drops what is pending: `flush` comes first."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(IN_FLIGHT):
                tasks.create_task(self._sender())

    async def flush(self, timeout_s: float) -> int:
        """Wait until nothing is pending or the time is up; the number of IDs still pending."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            pass
        return self.pending

    @property
    def pending(self) -> int:
        """IDs not confirmed yet, of every kind."""
        return self._extends.ids + self._acks.ids + self._releases.ids + self._busy

    def statistics(self) -> AckStatistics:
        """Counts so far."""
        self._statistics.pending = self.pending
        return self._statistics

    def _add(self, line: _Line, ack_ids: Sequence[pa.Array], settled: Callable[[AckOutcome], None]) -> None:
        count = sum(len(array) for array in ack_ids)
        if count == 0:
            settled(AckOutcome(0, 0))
            return
        line.put(_Job(count, settled, total=count), ack_ids)
        self._idle.clear()
        self._work.set()

    async def _sender(self) -> None:
        while True:
            line = next((line for line in (self._extends, self._acks, self._releases) if line.waiting), None)
            if line is not None:
                await self._send(line)
                continue
            self._work.clear()
            if not self._busy:
                self._idle.set()
            await self._work.wait()

    async def _send(self, line: _Line) -> None:
        """One request. Its own frame, so that an idle sender keeps nothing of the last one alive."""
        ack_ids, owners = line.take()
        self._busy += len(ack_ids)
        try:
            if line is self._acks:
                await self._send_acks(ack_ids, owners)
            elif line is self._extends:
                await self._send_extend(ack_ids, owners)
            else:
                await self._send_release(ack_ids, owners)
        finally:
            self._busy -= len(ack_ids)

    async def _send_acks(self, ack_ids: pa.Array, owners: list[tuple[_Job, int]]) -> None:
        """Until every ID is confirmed or refused for good."""
        backoff = Backoff(self._rng, base_s=self._base_backoff_s)
        unsettled, lost = ack_ids, 0
        while len(unsettled):
            self._statistics.requests += 1
            try:
                await self._acknowledge(wire.encode_acknowledge(self._subscription, unsettled), timeout=CALL_TIMEOUT_S)
                break
            except grpc.aio.AioRpcError as error:
                refused, unsettled = _sort_out(error, unsettled)
                lost += refused
                if refused:
                    events.AcksLost(
                        subscription=self._subscription,
                        acks=refused,
                        code=error.code().name,
                        error=error.details() or "",
                    ).emit()
                if len(unsettled):
                    self._statistics.retries += 1
                    events.AckRetried(
                        subscription=self._subscription,
                        acks=len(unsettled),
                        code=error.code().name,
                        error=error.details() or "",
                    ).emit()
                    await asyncio.sleep(backoff.next_s())
        self._statistics.acknowledged += len(ack_ids) - lost
        self._statistics.lost += lost
        _settle(owners, lost)

    async def _send_extend(self, ack_ids: pa.Array, owners: list[tuple[_Job, int]]) -> None:
        confirmed = await self._modify_deadline(ack_ids, self._deadline_s)
        self._statistics.extended += len(ack_ids) if confirmed else 0
        _settle(owners, 0 if confirmed else len(ack_ids))

    async def _send_release(self, ack_ids: pa.Array, owners: list[tuple[_Job, int]]) -> None:
        backoff = Backoff(self._rng, base_s=self._base_backoff_s)
        for _ in range(RELEASE_ATTEMPTS):
            if await self._modify_deadline(ack_ids, 0):
                self._statistics.released += len(ack_ids)
                break
            await asyncio.sleep(backoff.next_s())
        _settle(owners, 0)

    async def _modify_deadline(self, ack_ids: pa.Array, seconds: int) -> bool:
        self._statistics.requests += 1
        try:
            await self._modify(
                wire.encode_modify_ack_deadline(self._subscription, ack_ids, seconds), timeout=CALL_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            if _per_id_failures(error):  # exactly-once: some IDs are over, the others were taken
                return True
            self._statistics.retries += 1
            events.ModackFailed(
                subscription=self._subscription,
                acks=len(ack_ids),
                seconds=seconds,
                code=error.code().name,
                error=error.details() or "",
            ).emit()
            return False
        return True


def _settle(owners: list[tuple[_Job, int]], lost: int) -> None:
    """Settle a request's jobs; losses are counted with the first that have room, since they are only counted."""
    for job, count in owners:
        mine = min(lost, count)
        lost -= mine
        job.settle(count, lost=mine)


def _sort_out(error: grpc.aio.AioRpcError, ack_ids: pa.Array) -> tuple[int, pa.Array]:
    """After a failed Acknowledge: how many IDs are refused for good, and those to try again.

    Exactly-once subscriptions tell it per ID (https://cloud.google.com/pubsub/docs/exactly-once-delivery); others
    by the code alone.
    """
    failures = _per_id_failures(error)
    if failures:
        passing = [ack_id for ack_id, why in failures.items() if why.startswith("TRANSIENT_")]
        again = ack_ids.filter(pc.is_in(ack_ids, value_set=pa.array(passing, pa.string())))
        return len(failures) - len(passing), again
    if error.code() in _HOPELESS:
        return len(ack_ids), ack_ids.slice(0, 0)
    return 0, ack_ids


def _per_id_failures(error: grpc.aio.AioRpcError) -> dict[str, str]:
    """Ack ID → `TRANSIENT_…` or `PERMANENT_…`, from the error's details."""
    failures: dict[str, str] = {}
    for key, value in error.trailing_metadata() or ():
        if key == _STATUS_DETAILS and isinstance(value, bytes):
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    pairs = info.metadata.items()
                    failures.update((k, v) for k, v in pairs if v.startswith(("TRANSIENT_", "PERMANENT_")))
    return failures


def _ignore(_outcome: AckOutcome) -> None:
    """Releases are a courtesy: nobody waits for them."""
