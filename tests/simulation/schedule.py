"""Simulated time: one queue of events, and code that blocks run as actors, one at a time, in an order a seed decides.

The product's driver blocks in its calls and sleeps. An actor gives such code a stack of its own (a greenlet): when it
waits it hands control back, and goes on when an event wakes it. Nothing is concurrent here.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent, greenlet

Act = Callable[[], None]
Wake = Callable[[Any], None]


class Halted(BaseException):
    """Ends an actor whose process was killed, wherever it waits. No handler of the product catches it."""


class Event:
    """What happens at a time; `cancel` makes it nothing."""

    __slots__ = ("act",)

    def __init__(self, act: Act) -> None:
        self.act: Act | None = act

    def cancel(self) -> None:
        """It will not happen."""
        self.act = None


class Process:
    """Actors that live and die together. While it is frozen (SIGSTOP) none of them wakes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.frozen_until = 0.0
        self.dead = False
        self.actors: list[Actor] = []


class Actor:
    """One line of blocking code. `turn` numbers its waits, so that a late wake-up finds nobody."""

    def __init__(self, process: Process, body: Act) -> None:
        self.process = process
        self.body = body
        self.turn = 0
        self.outcome: Any = None
        self.ended = False
        self.stack: greenlet | None = None
        """Once it has begun."""

    def run(self) -> None:
        """All of it; what it raises goes on to whoever let it run."""
        try:
            self.body()
        except Halted:
            pass
        finally:
            self.ended = True


class Scheduler:
    """The clock and everything that is to happen. `events` counts what did."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._queue: list[tuple[float, int, Event]] = []
        self._order = 0
        self._running: Actor | None = None
        self._processes: list[Process] = []

    # --- events -------------------------------------------------------------------------------------------------

    def at(self, delay_s: float, act: Act) -> Event:
        """Let something happen after a delay."""
        self._order += 1  # events of one time happen in the order they were made
        event = Event(act)
        heapq.heappush(self._queue, (self.now + delay_s, self._order, event))
        return event

    def step(self) -> None:
        """The next event. There always is one: daemons tick."""
        while True:
            time, _, event = heapq.heappop(self._queue)
            if event.act is not None:
                break
        self.now = time
        self.events += 1
        event.act()

    # --- actors -------------------------------------------------------------------------------------------------

    def start(self, process: Process, body: Act) -> None:
        """Run blocking code as a part of a process, from the next event on."""
        actor = Actor(process, body)
        process.actors.append(actor)
        if process not in self._processes:
            self._processes.append(process)
        self.at(0.0, lambda: self._wake(actor, 0, None))

    def pause(self, begin: Callable[[Wake], None]) -> Any:
        """Wait, in an actor, until something calls the `Wake` that `begin` is given; an exception given is raised."""
        actor = self._running
        assert actor is not None, "only actors wait"
        assert actor.stack is not None, "an actor that runs has begun"
        if actor.process.dead:
            raise Halted
        actor.turn += 1
        turn = actor.turn
        begin(lambda outcome: self._wake(actor, turn, outcome))
        assert actor.stack.parent is not None, "somebody let it run"
        actor.stack.parent.switch()
        if actor.process.dead:
            raise Halted
        outcome, actor.outcome = actor.outcome, None
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def sleep(self, seconds: float) -> None:
        """Wait, in an actor, for simulated seconds."""
        self.pause(lambda wake: _discard(self.at(seconds, lambda: wake(None))))

    def kill(self, process: Process) -> None:
        """End a process at once (SIGKILL). Not from one of its own actors."""
        process.dead = True
        for actor in process.actors:
            if actor.stack is not None and not actor.ended:
                self._switch(actor)
            actor.ended = True
        process.actors.clear()
        if process in self._processes:
            self._processes.remove(process)

    def close(self) -> None:
        """End everything."""
        for process in list(self._processes):
            self.kill(process)
        self._queue.clear()

    def _wake(self, actor: Actor, turn: int, outcome: Any) -> None:
        if actor.turn != turn or actor.ended or actor.process.dead:
            return
        frozen_s = actor.process.frozen_until - self.now
        # An actor may cause a wake-up, its own too, but only the queue of events acts on it.
        if frozen_s > 0 or self._running is not None:
            self.at(max(frozen_s, 0.0), lambda: self._wake(actor, turn, outcome))
            return
        actor.turn += 1
        actor.outcome = outcome
        self._switch(actor)

    def _switch(self, actor: Actor) -> None:
        """Let an actor run until it waits or ends."""
        if actor.stack is None:
            actor.stack = greenlet(actor.run)
        actor.stack.parent = getcurrent()
        before, self._running = self._running, actor
        try:
            actor.stack.switch()
        finally:
            self._running = before


class Lock:
    """Stands for `threading.Lock` between actors: who must wait does so in simulated time."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._held = False
        self._waiting: list[Wake] = []

    def acquire(self, *, blocking: bool = True) -> bool:
        """Take it; without `blocking` False when somebody has it."""
        while self._held:
            if not blocking:
                return False
            self._scheduler.pause(self._waiting.append)
        self._held = True
        return True

    def release(self) -> None:
        """Let the next one have it."""
        self._held = False
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake(None)

    def __enter__(self) -> None:
        """Take it."""
        self.acquire()

    def __exit__(self, *_: object) -> None:
        """Let it go."""
        self.release()


def _discard(_event: Event) -> None:
    """What is scheduled needs no handle."""
