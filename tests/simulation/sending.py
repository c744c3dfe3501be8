"""The way of ack IDs to the service: the product decides, a simulated network stands in place of gRPC and the loop."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
from tests.simulation.history import Spans, Violation
from tests.simulation.pubsub import Service, number_of
from tests.simulation.schedule import Event

from penstock.clock import Clock
from penstock.pubsub.errand import Accounts, Call, Wait
from penstock.pubsub.refusal import PERMANENT, TRANSIENT, judged
from penstock.pubsub.settling import CALL_TIMEOUT_S, Sender, Settling
from penstock.pubsub.turns import Kind, Turns
from penstock.reservoir import AckOutcome

if TYPE_CHECKING:
    from tests.simulation.daemon import Daemon

TROUBLES = ("UNAVAILABLE", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "NOT_FOUND", "some", "some", "outage", "defect")
"""What a refused request meets: an error of this code, `TRANSIENT_` for some of its IDs (exactly-once delivery only),
the begin of an outage of all such requests, or a defect of the daemon's own."""


class Sending:
    """Satisfies `reservoir.AckSink` for one life of a daemon; what is under way when it dies may still arrive."""

    def __init__(self, daemon: Daemon, service: Service, subscription: str) -> None:
        self.daemon = daemon
        self.service = service
        self.world = daemon.world
        self.confirmed_rows = 0
        self._life = daemon.life
        self._answered: set[str] = set()
        self._looking = False
        deadline_s, clock, rng = int(self.world.faults.shape.deadline_s), lambda: self.world.now, self.world.faults.rng
        ack_turns = Moving("acknowledge", subscription, clock=clock, rng=rng)
        lease_turns = Moving("modify", subscription, clock=clock, rng=rng, deadline_s=deadline_s)
        self.settling = Settling(
            Accounts(subscription, clock=clock, rng=rng, base_backoff_s=0.1),
            deadline_s=deadline_s,
            ack_turns=ack_turns,
            lease_turns=lease_turns,
        )
        self._carriers = [Carrier(self, sender) for sender in self.settling.senders]
        ack_turns.carriers = lease_turns.carriers = self._carriers

    def acknowledge(self, ack_ids: Sequence[pa.Array], settled: Callable[[AckOutcome], None]) -> None:
        """See `AckSink`. What the daemon decides here is checked here."""
        ids = _flat(ack_ids)
        self.world.checks.acknowledged([number_of(ack_id) for ack_id in ids], self.daemon.name)
        self.world.note("%s acknowledges %s", self.daemon.name, Spans(number_of(ack_id) for ack_id in ids))

        def checked(outcome: AckOutcome) -> None:
            unanswered = [number_of(ack_id) for ack_id in ids if ack_id not in self._answered]
            if unanswered:
                raise Violation("acks count as settled that the service never answered", unanswered)
            settled(outcome)

        self.settling.acknowledge(ack_ids, checked)
        self._look_soon()

    def extend(self, ack_ids: Sequence[pa.Array], settled: Callable[[bool], None]) -> None:
        """See `AckSink`."""
        self.settling.extend(ack_ids, settled)
        self._look_soon()

    def release(self, ack_ids: Sequence[pa.Array], settled: Callable[[], None]) -> None:
        """See `AckSink`."""
        ids = _flat(ack_ids)
        if ids:
            self.world.note("%s gives back %s", self.daemon.name, Spans(number_of(ack_id) for ack_id in ids))
        self.settling.release(ack_ids, settled)
        self._look_soon()

    @property
    def alive(self) -> bool:
        """Whether this is the daemon's life still."""
        return self.daemon.up and self.daemon.life == self._life

    def answered(self, ids: Sequence[str], failures: dict[str, str]) -> None:
        """The service has spoken of acks."""
        taken = [ack_id for ack_id in ids if ack_id not in failures]
        self.confirmed_rows += len(taken)
        self._answered.update(taken, (ack_id for ack_id, why in failures.items() if why.startswith(PERMANENT)))

    def _look_soon(self) -> None:
        if not self._looking and self.settling.pending_ids:
            self._looking = True
            self.world.at(self.world.faults.soon_s(0.02), self._look)

    def _look(self) -> None:
        """As the event of `AckQueue` wakes all senders that have nothing to do."""
        if not self.alive or self.world.frozen(self.daemon.process, self._look):
            return
        self._looking = False
        for carrier in self._carriers:
            if carrier.idle and self.settling.waiting_ids:
                carrier.go()
        self.world.checks.after(self.daemon)


class Moving(Turns):
    """Wakes the carriers that wait for it."""

    def __init__(
        self, kind: Kind, resource: str, *, clock: Clock, rng: random.Random, deadline_s: float = float("inf")
    ) -> None:
        super().__init__(kind, resource, clock=clock, rng=rng, deadline_s=deadline_s)
        self.carriers: list[Carrier] = []

    def moved(self) -> None:
        """See `Turns`."""
        for carrier in self.carriers:
            carrier.moved(self)


class Carrier:
    """Drives one of the product's senders, as a coroutine of `AckQueue` does."""

    def __init__(self, sending: Sending, sender: Sender) -> None:
        self.idle = True
        self._sending = sending
        self._sender = sender
        self._world = sending.world
        self._waits: tuple[Event, Turns | None] | None = None
        self._call: Call | None = None
        self._timeout: Event | None = None

    def go(self) -> None:
        """Whatever is to be done next."""
        move = self._sender.next()
        self.idle = move is None
        if isinstance(move, Call):
            self._send(move)
        elif isinstance(move, Wait):
            self._waits = self._world.at(move.seconds, self._go_on), move.turns
        elif not self._sending.settling.pending_ids:
            self._sending.settling.rest()

    def moved(self, turns: Turns) -> None:
        """No need to wait any longer, if it waits for these."""
        if self._waits is not None and self._waits[1] is turns:
            self._waits[0].cancel()
            self._waits = self._world.at(0.0, self._go_on), None

    def _go_on(self) -> None:
        if not self._sending.alive or self._world.frozen(self._sending.daemon.process, self._go_on):
            return
        self._waits = None
        self.go()
        self._world.checks.after(self._sending.daemon)

    # --- calls --------------------------------------------------------------------------------------------------

    def _send(self, call: Call) -> None:
        """One request, as far as it gets."""
        faults = self._world.faults
        self._call = call
        trouble = self._trouble(call)
        if trouble == "defect":
            self._call = None
            self._sender.put_back()
            self._waits = self._world.at(self._sender.pause_s(), self._go_on), None
            return
        if trouble not in (None, "some"):
            self._world.at(0.02, lambda: self._heard(call, str(trouble), {}))
            return
        self._timeout = self._world.at(CALL_TIMEOUT_S, lambda: self._heard(call, "DEADLINE_EXCEEDED", {}))
        if faults.happens("lost_ack"):
            return
        late = faults.happens("late_ack")
        delay_s = 2 * CALL_TIMEOUT_S * faults.rng.random() if late else faults.soon_s(0.02)
        self._world.at(delay_s, lambda: self._arrive(call, some=trouble is not None, late=late))

    def _trouble(self, call: Call) -> str | None:
        """Which of `TROUBLES` this request meets."""
        faults, away = self._world.faults, self._sending.service.away
        if away.get(call.deadline_s is None, 0.0) > self._world.now and not faults.quiet:
            return "UNAVAILABLE"
        if not faults.happens("refused_ack"):
            return None
        trouble = faults.rng.choice(TROUBLES)
        if trouble == "outage":
            away[call.deadline_s is None] = self._world.now + faults.rng.choice([1.0, 5.0, 20.0])
        return (
            "UNAVAILABLE" if trouble == "outage" or (trouble == "some" and not faults.shape.exactly_once) else trouble
        )

    def _arrive(self, call: Call, *, some: bool, late: bool) -> None:
        """The service has it, and may answer."""
        faults, service, ids = self._world.faults, self._sending.service, call.ack_ids.to_pylist()
        failures = {ack_id: f"{TRANSIENT}FAILURE" for ack_id in ids if some and faults.rng.random() < 0.5}
        taken = [ack_id for ack_id in ids if ack_id not in failures] if failures else ids
        refused = service.acknowledge(taken) if call.deadline_s is None else service.modify(taken, call.deadline_s)
        for ack_id, lost in zip(taken, refused, strict=True):
            if lost:
                failures[ack_id] = f"{PERMANENT}FAILURE_INVALID_ACK_ID"
        if not late and not faults.happens("lost_ack_reply"):
            code = "FAILED_PRECONDITION" if failures else None
            self._world.at(faults.soon_s(0.02), lambda: self._heard(call, code, failures))

    def _heard(self, call: Call, code: str | None, failures: dict[str, str]) -> None:
        """An answer, or that none came."""
        sending = self._sending
        if self._call is not call or not sending.alive:
            return
        if self._world.frozen(sending.daemon.process, lambda: self._heard(call, code, failures)):
            return
        self._call = None
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
        if call.deadline_s is None:
            self._note_ack(call, code, failures)
        self._sender.heard(None if code is None else judged(code, "simulated", failures, call.ack_ids))
        self.go()
        self._world.checks.after(sending.daemon)

    def _note_ack(self, call: Call, code: str | None, failures: dict[str, str]) -> None:
        ids = call.ack_ids.to_pylist()
        if code == "NOT_FOUND":
            failures = dict.fromkeys(ids, PERMANENT)
        elif code is not None and not failures:
            return
        self._sending.answered(ids, failures)


def _flat(arrays: Sequence[pa.Array]) -> list[str]:
    return [text for array in arrays for text in array.to_pylist()]
