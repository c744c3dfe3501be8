"""The way between Spark's side and the daemons: addresses, and calls whose requests and replies may be lost or late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.simulation.daemon import Daemon
from tests.simulation.schedule import Wake

from penstock.contract.actions import ACTIONS
from penstock.contract.body import Request
from penstock.errors import NodeUnreachable, PenstockError, from_dict

if TYPE_CHECKING:
    from tests.simulation.world import World

LATENCY_S = 0.01


class Address:
    """Satisfies `client.Node`: leads to one daemon at a time, to another one after a move, to none while it is cut."""

    def __init__(self, world: World, daemon: Daemon, endpoint: str = "penstock:8815") -> None:
        self.endpoint = endpoint
        self.daemon = daemon
        self.cut_until = 0.0
        self._world = world

    def call(self, action: str, request: Request) -> Any:
        """One action, from an actor: the reply, or `NodeUnreachable` when none came within the action's deadline."""
        reply = self._world.scheduler.pause(lambda wake: self.send(action, request, wake))
        return ACTIONS[action].reply.from_json(reply)

    def lead(self, daemon: Daemon) -> None:
        """From now on another daemon answers here."""
        self.daemon = daemon
        self._world.note("the address %s leads to %s now", self.endpoint, daemon.name)

    def close(self) -> None:
        """Nothing to close."""

    def send(self, action: str, request: Request, wake: Wake) -> None:
        """Let a request travel; `wake` gets the reply's bytes or an error, once or more often."""
        world, faults = self._world, self._world.faults
        deadline_s = ACTIONS[action].deadline_s
        given_up = world.at(deadline_s, lambda: wake(NodeUnreachable(f"no answer to {action} in {deadline_s:g} s")))

        def answer(outcome: bytes | PenstockError) -> None:
            if faults.happens("lost_reply"):
                world.note("the reply to %s is lost", action)
                return
            said = from_dict(outcome.to_dict()) if isinstance(outcome, PenstockError) else outcome

            def arrive() -> None:
                given_up.cancel()
                wake(said)

            world.at(faults.soon_s(LATENCY_S), arrive)

        if faults.happens("lost_request"):
            world.note("the request %s is lost", action)
            return
        if faults.happens("late_request"):
            world.at(self._late_s(deadline_s), lambda: self._arrive(action, request, answer, " late"))
            return
        world.at(faults.soon_s(LATENCY_S), lambda: self._arrive(action, request, answer))
        if faults.happens("repeated_request"):
            world.at(
                self._late_s(deadline_s), lambda: self._arrive(action, request, lambda _outcome: None, " once more")
            )

    def _late_s(self, deadline_s: float) -> float:
        """Within the same epoch, or when nobody waits for it any more."""
        rng = self._world.faults.rng
        return rng.expovariate(5.0) if rng.random() < 0.5 else 2 * deadline_s * rng.random()

    def reach(self) -> Daemon | None:
        """The daemon that answers here now, if any does."""
        return self.daemon if self.daemon.up and self.cut_until <= self._world.now else None

    def _arrive(self, action: str, request: Request, answer: Any, how: str = "") -> None:
        daemon = self.reach()
        if daemon is None:
            if self.cut_until <= self._world.now:  # nobody listens: refused, which is heard at once
                answer(NodeUnreachable(f"nobody answers {action}"))
            return
        if self._world.frozen(daemon.process, lambda: self._arrive(action, request, answer, how)):
            return
        if action != "alive" or how:
            self._world.note("%s gets %s%s %s", daemon.name, action, how, _Told(request))
        daemon.serve(action, request, answer)


class _Told:
    """A request in words, when somebody reads them."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def __str__(self) -> str:
        said = self._request.to_plain()
        return " ".join(f"{key}={value}" for key, value in said.items() if key not in {"v", "subscription"})
