"""Ack IDs on their way to the service: which wait, which request takes them, and whose they were. Sans-I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.pubsub import wire
from penstock.reservoir.ports import AckOutcome


@dataclass(eq=False)
class Job:
    """One call of the port, until every ID of it is settled; then `settled` is called, once."""

    total: int
    settled: Callable[[AckOutcome], None]
    left: int = 0
    lost: int = 0

    def __post_init__(self) -> None:
        self.left = self.total

    def settle(self, count: int, lost: int) -> None:
        """`count` more IDs have their end, `lost` of them a bad one."""
        self.left -= count
        self.lost += lost
        assert self.left >= 0, "an ack ID was settled twice"
        if self.left == 0:
            self.settled(AckOutcome(self.total - self.lost, self.lost))


@dataclass(frozen=True)
class Request:
    """The IDs of one request, and how many of them belong to which job, in order."""

    ack_ids: pa.Array
    owners: list[tuple[Job, int]]

    def settle(self, lost: npt.NDArray[np.bool_] | None = None) -> None:
        """Every ID has its end: a bad one where `lost` is true.

        Raises what a `settled` raised, in an exception group, once all jobs have heard.
        """
        at = 0
        defects: list[Exception] = []
        for job, count in self.owners:
            try:
                job.settle(count, 0 if lost is None else int(np.count_nonzero(lost[at : at + count])))
            except Exception as defect:  # noqa: BLE001 - one job's defect is no reason for the others to wait for ever
                defects.append(defect)
            at += count
        if defects:
            raise ExceptionGroup("settled", defects)


@dataclass
class Line:
    """IDs that wait for a request of one kind, in order."""

    waiting: deque[tuple[Job, pa.Array]] = field(default_factory=deque)
    ids: int = 0

    @property
    def bytes(self) -> int:
        """Memory that the waiting IDs refer to."""
        return sum(array.nbytes for _job, array in self.waiting)

    def put(self, job: Job, arrays: Sequence[pa.Array]) -> None:
        """Wait at the end."""
        self.waiting.extend((job, array) for array in arrays if len(array))
        self.ids += sum(len(array) for array in arrays)

    def put_back(self, request: Request) -> None:
        """Wait again, at the end: what made the request fail must not hold up the others."""
        at = 0
        for job, count in request.owners:
            self.waiting.append((job, request.ack_ids.slice(at, count)))
            at += count
        self.ids += at

    def take(self) -> Request:
        """The next request: as many IDs as its limits allow, at least one. The line must not be empty."""
        pieces: list[tuple[Job, pa.Array]] = []
        count = 0
        while self.waiting and count < wire.MAX_IDS:
            job, array = self.waiting.popleft()
            fit = min(len(array), wire.MAX_IDS - count)
            if fit < len(array):
                self.waiting.appendleft((job, array.slice(fit)))
            pieces.append((job, array.slice(0, fit)))
            count += fit
        try:
            together = pieces[0][1] if len(pieces) == 1 else pa.concat_arrays([array for _job, array in pieces])
            ack_ids = next(wire.cut(together))
        except BaseException:
            self.waiting.extendleft(reversed(pieces))
            raise
        # Unusually long IDs fill a request's bytes before its count: the rest waits at the head again.
        owners: list[tuple[Job, int]] = []
        back: list[tuple[Job, pa.Array]] = []
        room = len(ack_ids)
        for job, array in pieces:
            mine = min(len(array), room)
            room -= mine
            if mine:
                owners.append((job, mine))
            if mine < len(array):
                back.append((job, array.slice(mine)))
        self.waiting.extendleft(reversed(back))
        self.ids -= len(ack_ids)
        return Request(ack_ids, owners)
