"""The composition root: builds the rooms, owns every task and every signal, and knows the order of the end."""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import gc
import hashlib
import os
import signal
import socket
import weakref
from collections.abc import Coroutine, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvloop

from penstock import errors, memory
from penstock.clock import Clock, boottime
from penstock.contract import subscription_path
from penstock.contract.actions import CreateSubscription
from penstock.flight import Actions, FlightServer
from penstock.http import HttpServer
from penstock.ingest import Ingest
from penstock.publish import Outlet
from penstock.pubsub import Control, PubSubChannel, SubscriptionInfo
from penstock.reservoir import Reservoir, Subscription
from penstock.reservoir.decisions import SubscriptionHeld
from penstock.settings import Settings
from penstock.storage import Found, Spill, Store, StoreFailed, open_spill, open_store
from penstock.telemetry import events

TICK_S = 0.05
"""Leases, contact and idle reads are looked at this often; it bounds how late a pause is noticed."""

IDLE_S = 10.0
"""When nothing came or went for this long the daemon gives freed memory back to the system."""

PREFETCH_AGAIN_S = 5.0
"""A subscription that cannot be prefetched now is tried again after this."""

FORGET_S = 600.0
"""A subscription that nobody has used for this long is forgotten. The message IDs that it remembers are too old by then
(`reservoir.remember_s`, which is no longer)."""

FLUSH_S = 5.0
"""How long the last acks and releases may take at the end of a drain."""

STORAGE_FAILED = 74
"""The exit code of a daemon that cannot rely on its disk (EX_IOERR of sysexits.h)."""


def run(settings: Settings) -> int:
    """Serve until told to stop; the exit code."""
    memory.keep_heap()
    service = Service(settings)
    code = uvloop.run(service.run())
    if not service.ended:
        # A reader that stands still holds a native thread, which the interpreter's own end would wait for.
        os._exit(code)
    return code


class Service:
    """One daemon. Satisfies `flight.Opener`."""

    def __init__(self, settings: Settings, clock: Clock = boottime) -> None:
        self.settings = settings
        site = _site(settings.listen)
        self._store: Store | None = None
        self._found: Found | None = None
        if settings.data_dir is not None:
            self._store, self._found = open_store(Path(settings.data_dir), fsync=settings.fsync, site=site)
        self._spill: Spill | None = None
        if settings.data_dir is None and settings.reservoir.spill_above < 1:
            self._spill = open_spill(settings.spill_dir, clock)
        node = self._found.node if self._found else None
        self.reservoir = Reservoir(
            settings.reservoir, clock, site=site, node=node, store=self._store, spill=self._spill
        )
        self._clock = clock
        self._ingests: dict[str, Ingest] = {}
        # Weak, so that a lock is gone with its last user and names that failed to open leave nothing.
        self._opening: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._refused: dict[str, errors.SubscriptionFailed] = {}
        """Why those that are to be prefetched could not be described; some are not there yet."""
        self._stop = asyncio.Event()
        self._serving = False
        self._ended = True
        self._channel: PubSubChannel
        self._control: Control
        self.outlet: Outlet | None = None
        self._tasks: asyncio.TaskGroup

    async def run(self) -> int:
        """Serve until SIGTERM, SIGINT or the action `drain`, then drain. A second signal exits at once."""
        async with (
            PubSubChannel(self.settings.pubsub) as self._channel,
            Control(self._channel) as self._control,
            HttpServer(self.settings.http, daemon=self) as http,
        ):
            with self._signals():
                await self._serve(http.address)
        return 0

    # --- flight.Opener ------------------------------------------------------------------------------------------

    async def subscription(self, name: str, create: CreateSubscription | None) -> Subscription:
        """The subscription of that name, described and held from its first `open` on."""
        path = subscription_path(name)
        if self._stop.is_set():
            raise errors.Draining("the daemon is shutting down; another one, or this one restarted, takes new readers")
        if not any(fnmatch.fnmatchcase(path, pattern) for pattern in self.settings.subscriptions):
            raise errors.SubscriptionNotAllowed(
                f"this daemon does not serve {path}; it serves {', '.join(self.settings.subscriptions) or 'none'}. "
                f"Start it with --subscription {path}"
            )
        return (await self._ingest(path, create)).subscription

    @property
    def ended(self) -> bool:
        """Whether every Flight call is over."""
        return self._ended

    def state(self) -> str:
        """`serving` or `draining`."""
        return "draining" if self._stop.is_set() else "serving"

    def figures(self) -> dict[str, dict[str, object]]:
        """Subscription → figures."""
        return {name: ingest.statistics() for name, ingest in self._ingests.items()}

    def publishing(self) -> dict[str, Any]:
        """Figures of what is published; see `Outlet.statistics`."""
        return {} if self.outlet is None else self.outlet.statistics()

    def drain(self) -> None:
        """Begin to stop; safe to repeat."""
        self._stop.set()

    # --- for the HTTP room --------------------------------------------------------------------------------------

    def not_ready(self) -> list[str]:
        """Why the daemon is not ready; empty when it is."""
        reasons = [] if self._serving else ["the Flight server does not answer yet"]
        if self._stop.is_set():
            reasons.append("draining")
        failures = (i.subscription.failed for i in self._ingests.values() if i.subscription.needed)
        said = [failure.message for failure in (*failures, *self._refused.values()) if failure is not None]
        return reasons + list(dict.fromkeys(said))

    # --- life ---------------------------------------------------------------------------------------------------

    async def _serve(self, http: str) -> None:
        settings = self.settings
        self._recover()
        outlet = self.outlet = Outlet(
            self._channel,
            self._control,
            settings.publish,
            clock=self._clock,
            spawn=self._own,
        )
        flight = FlightServer(
            settings.listen,
            loop=asyncio.get_running_loop(),
            reservoir=self.reservoir,
            actions=Actions(self.reservoir, self, version("penstock"), settings.advertise),
            clock=self._clock,
            read_idle_s=settings.reservoir.read_idle_s,
            advertise=settings.advertise,
            outlet=outlet,
        )
        try:
            async with asyncio.TaskGroup() as self._tasks:
                running = [
                    self._tasks.create_task(task) for task in (self._tick(flight), self._trim(), self._forget_unused())
                ]
                for ingest in self._ingests.values():
                    ingest.task = self._tasks.create_task(ingest.run())
                if self._store is not None:
                    running.append(self._tasks.create_task(self._keep(self._store)))
                if self._spill is not None:
                    running.append(self._tasks.create_task(self._spill.run()))
                if settings.prefetch:
                    named = [name for name in settings.subscriptions if not set(name) & set("*?[")]
                    running += [self._tasks.create_task(self._prefetch(name)) for name in named]
                gc.freeze()  # what is here now stays: the collector need not look at it again
                self._serving = True
                events.Serving(listen=settings.listen, port=flight.port, http=http, node=self.reservoir.node).emit()
                await self._stop.wait()
                await self._drain(flight, outlet)
                outlet.close()
                for task in (*running, *(ingest.task for ingest in self._ingests.values())):
                    task.cancel()
        finally:
            self._serving = False
            if self._store is not None:
                self._store.close()
            if self._spill is not None:
                self._spill.close()
            self._ended = await asyncio.to_thread(flight.stop)

    def _own(self, running: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task of this daemon's."""
        return self._tasks.create_task(running)

    async def _prefetch(self, path: str) -> None:
        """Pull a subscription before anybody opens it, as soon as it is there, and again after it was refused."""
        while not self._stop.is_set():
            try:
                ingest = await self._ingest(path, None)
            except errors.PenstockError as error:
                if isinstance(error, errors.SubscriptionFailed):
                    self._refused[path] = error
                events.PrefetchFailed(subscription=path, error=error.message).emit()
            else:
                self._refused.pop(path, None)
                ingest.subscription.try_again()
            await asyncio.sleep(PREFETCH_AGAIN_S)

    async def _ingest(self, path: str, create: CreateSubscription | None) -> Ingest:
        """The one ingest of a subscription: described, or created, by whoever asks first.

        Nothing else runs between the end of this and the caller's next step, so what is returned cannot be forgotten
        before the caller has opened it.
        """
        async with self._opening.setdefault(path, asyncio.Lock()):
            ingest = self._ingests.get(path)
            if ingest is None or ingest.subscription.failed or create:
                info = await (self._control.create(path, create) if create else self._control.describe(path))
                if self._stop.is_set():
                    raise errors.Draining("the daemon is shutting down")
                if ingest is None:
                    ingest = self._start(info)
                else:
                    ingest.described(info)
                    self._note(info)
        return ingest

    def _start(self, info: SubscriptionInfo) -> Ingest:
        ingest = self._build(info)
        self._note(info)
        ingest.task = self._tasks.create_task(ingest.run())
        return ingest

    def _note(self, info: SubscriptionInfo) -> None:
        if self._store is not None:
            self._store.record(SubscriptionHeld(info.name, info.ordering, info.exactly_once))

    def _build(self, info: SubscriptionInfo) -> Ingest:
        ingest = self._ingests[info.name] = Ingest(
            info,
            channel=self._channel,
            reservoir=self.reservoir,
            settings=self.settings.pubsub,
            clock=self._clock,
            prefetch=self.settings.prefetch and info.name in self.settings.subscriptions,
        )
        return ingest

    def _recover(self) -> None:
        """Take up what the data_dir has, before anybody is answered. Pub/Sub is not asked: its streams will tell."""
        found, self._found = self._found, None
        if found is None:
            return
        self.reservoir.recover_evicted(found.evicted)
        for held, consumers in found.subscriptions:
            info = SubscriptionInfo(held.subscription, ordering=held.ordering, exactly_once=held.exactly_once)
            self._build(info).subscription.recover(consumers)
        batches = [batch for held in self.reservoir.subscriptions.values() for batch in held.batches]
        rows = sum(batch.rows for batch in batches)
        events.Recovered(data_dir=self.settings.data_dir or "", batches=len(batches), rows=rows).emit()

    async def _keep(self, store: Store) -> None:
        try:
            await store.run()
        except StoreFailed as error:
            events.StorageFailed(error=str(error)).emit()
            os._exit(STORAGE_FAILED)

    async def _forget_unused(self) -> None:
        """Let subscriptions go that nobody has used for a while, since a pattern may bring new ones for ever."""
        since: dict[str, float] = {}
        while not self._stop.is_set():
            await asyncio.sleep(IDLE_S)
            now = self._clock()
            since = {path: since.get(path, now) for path, ingest in self._ingests.items() if ingest.unused}
            for path in [path for path, at in since.items() if now - at >= FORGET_S]:
                await self._forget(path)

    async def _forget(self, path: str) -> None:
        """Under the lock of `_ingest`: who opens it meanwhile either came before, or starts it anew afterwards."""
        async with self._opening.setdefault(path, asyncio.Lock()):
            ingest = self._ingests.get(path)
            if ingest is None or not ingest.unused:
                return
            del self._ingests[path]
            self.reservoir.remove(ingest.subscription)
            ingest.task.cancel()
            await asyncio.wait([ingest.task])
            events.SubscriptionForgotten(subscription=path).emit()

    async def _tick(self, flight: FlightServer) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            lapsed = self.reservoir.tick()
            for seconds in self.reservoir.pauses_s():
                events.StoodStill(seconds=round(seconds, 1)).emit()
            if lapsed:
                events.RowsLapsed(rows=lapsed).emit()
            if idle := flight.reads.sweep():
                events.ReadsCancelled(reads=idle).emit()

    async def _trim(self) -> None:
        """Return freed memory to the system once nothing has come in for a while; a busy heap is kept as it is."""
        trimmed = seen = (0, 0)
        while True:
            await asyncio.sleep(IDLE_S)
            received = sum(held.ledger.received for held in self.reservoir.subscriptions.values())
            last, seen = seen, (received, self.reservoir.budget.used_bytes)
            if seen == last and seen != trimmed:
                trimmed = seen
                await asyncio.to_thread(memory.give_back)

    async def _drain(self, flight: FlightServer, outlet: Outlet) -> None:
        """Stop pulling, serve what is sealed until it is gone or the time is up, give the rest back, send every ack."""
        timeout_s = self.settings.drain_timeout_s
        events.Draining(timeout_s=timeout_s).emit()
        subscriptions = list(self.reservoir.subscriptions.values())
        outlet.drain()
        for subscription in subscriptions:
            subscription.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while any(held.batches for held in subscriptions) or len(flight.reads) or len(outlet):  # noqa: ASYNC110
                    await asyncio.sleep(TICK_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                for ingest in list(self._ingests.values()):
                    await ingest.stopped_pulling()
        # After the streams have ended, so that what they brought last is given back as well.
        for subscription in subscriptions:
            subscription.release_all()
        # First the decisions that are not on the disk yet: some acks and releases wait for theirs.
        if self._store is not None:
            await self._store.flush(FLUSH_S)
        # Acks and releases that the service has not confirmed by now would come again: a last try, for all at once.
        unsent = await asyncio.gather(*(ingest.acks.flush(FLUSH_S) for ingest in self._ingests.values()))
        if self._store is not None:
            await self._store.flush(FLUSH_S)
        events.Drained(unconfirmed=sum(unsent)).emit()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _told_to_stop(self, number: int) -> None:
        if self._stop.is_set():
            os._exit(128 + number)
        self._stop.set()


def _site(listen: str) -> str:
    """Names this machine (or container) and the address listened on, in 12 characters."""
    machine = Path("/etc/machine-id")
    known = machine.read_text() if machine.exists() else ""
    # A port that the system chooses is no address: such a daemon is its own site.
    address = f"{listen}|{os.getpid()}" if listen.endswith(":0") else listen
    return hashlib.sha256(f"{known}|{socket.gethostname()}|{address}".encode()).hexdigest()[:12]
