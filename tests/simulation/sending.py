"""The way of ack IDs to the service: the product's own lines and jobs, with a simulated network in place of gRPC."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from tests.simulation.history import Spans, Violation
from tests.simulation.pubsub import Service, number_of

from penstock.pubsub.pending import Job, Line, Request
from penstock.reservoir import AckOutcome

if TYPE_CHECKING:
    from tests.simulation.daemon import Daemon

CALL_TIMEOUT_S = 10.0
"""As in `pubsub.acks`."""

RELEASE_ATTEMPTS = 3
"""As in `pubsub.acks`."""


class Sender:
    """Satisfies `reservoir.AckSink` for one life of a daemon; what is under way when it dies may still arrive."""

    def __init__(self, daemon: Daemon, service: Service) -> None:
        self._daemon = daemon
        self._service = service
        self._world = daemon.world
        self._life = daemon.life
        self._acks, self._extends, self._releases = Line(), Line(), Line()
        self.confirmed_rows = 0
        self._answered: set[str] = set()

    def acknowledge(self, ack_ids: Sequence[pa.Array], settled: Callable[[AckOutcome], None]) -> None:
        """See `AckSink`. What the daemon decides here is checked here."""
        ids = _flat(ack_ids)
        self._world.checks.acknowledged([number_of(ack_id) for ack_id in ids], self._daemon.name)
        self._world.note("%s acknowledges %s", self._daemon.name, Spans(number_of(ack_id) for ack_id in ids))

        def checked(outcome: AckOutcome) -> None:
            unanswered = [number_of(ack_id) for ack_id in ids if ack_id not in self._answered]
            if unanswered:
                raise Violation("acks count as settled that the service never answered", unanswered)
            settled(outcome)

        self._put(self._acks, ack_ids, len(ids), checked)

    def extend(self, ack_ids: Sequence[pa.Array], settled: Callable[[bool], None]) -> None:
        """See `AckSink`."""
        self._put(self._extends, ack_ids, len(_flat(ack_ids)), lambda outcome: settled(outcome.lost == 0))

    def release(self, ack_ids: Sequence[pa.Array], settled: Callable[[], None]) -> None:
        """See `AckSink`."""
        ids = _flat(ack_ids)
        if ids:
            self._world.note("%s gives back %s", self._daemon.name, Spans(number_of(ack_id) for ack_id in ids))
        self._put(self._releases, ack_ids, len(ids), lambda _outcome: settled())

    @property
    def pending_ids(self) -> int:
        """Waiting for a request."""
        return self._acks.ids + self._extends.ids + self._releases.ids

    def _put(self, line: Line, ack_ids: Sequence[pa.Array], count: int, settled: Callable[[AckOutcome], None]) -> None:
        if count == 0:
            settled(AckOutcome(0, 0))
            return
        line.put(Job(count, settled), ack_ids)
        self._world.at(self._world.faults.soon_s(0.02), lambda: self._send(line, 0))

    def _alive(self) -> bool:
        return self._daemon.up and self._daemon.life == self._life

    def _send(self, line: Line, attempt: int) -> None:
        """One request of what waits, as far as it gets."""
        if not self._alive() or not line.ids:
            return
        if self._world.frozen(self._daemon.process, lambda: self._send(line, attempt)):
            return
        faults, request = self._world.faults, line.take()
        ids: list[str] = request.ack_ids.to_pylist()
        failed = self._world.at(CALL_TIMEOUT_S, lambda: self._failed(line, request, attempt))
        if faults.happens("refused_ack"):  # UNAVAILABLE, at once
            failed.cancel()
            self._world.at(0.02, lambda: self._failed(line, request, attempt))
            return
        if faults.happens("lost_ack"):
            return
        late = faults.happens("late_ack")

        def arrive() -> None:
            refused = self._service.acknowledge(ids) if line is self._acks else self._modify(line, ids)
            if late or faults.happens("lost_ack_reply"):
                return
            self._world.at(faults.soon_s(0.02), lambda: answer(refused))

        def answer(refused: list[bool]) -> None:
            if failed.act is not None and self._alive():
                failed.cancel()
                self._settle(line, request, ids, refused)

        delay_s = 2 * CALL_TIMEOUT_S * faults.rng.random() if late else faults.soon_s(0.02)
        self._world.at(delay_s, arrive)

    def _modify(self, line: Line, ids: list[str]) -> list[bool]:
        return self._service.modify(ids, self._world.faults.shape.deadline_s if line is self._extends else 0)

    def _settle(self, line: Line, request: Request, ids: list[str], refused: list[bool]) -> None:
        if line is self._acks:
            self._answered.update(ids)
            self.confirmed_rows += refused.count(False)
        request.settle(np.array(refused))
        self._world.checks.after(self._daemon)

    def _failed(self, line: Line, request: Request, attempt: int) -> None:
        """No answer: acks wait again, an extension is the caller's to repeat, a release is tried a few times."""
        if not self._alive():
            return
        if line is self._extends:
            request.settle(np.ones(len(request.ack_ids), bool))
        elif line is self._acks or attempt + 1 < RELEASE_ATTEMPTS:
            line.put_back(request)
            self._world.at(self._world.faults.soon_s(0.3), lambda: self._send(line, attempt + 1))
        else:
            request.settle()
        self._world.checks.after(self._daemon)


def _flat(arrays: Sequence[pa.Array]) -> list[str]:
    return [text for array in arrays for text in array.to_pylist()]
