"""What writes share is given out in the order of asking, and comes back from those who no longer wait for it."""

from __future__ import annotations

import asyncio

from penstock.publish.flow import WINDOW_BYTES, Flow


class Calls:
    """Requests that take a slot of `flow` and keep it until they are told to end; `going` in the order they went."""

    def __init__(self, flow: Flow, tasks: asyncio.TaskGroup) -> None:
        self.going: list[str] = []
        self._flow = flow
        self._tasks = tasks
        self._ends: dict[str, asyncio.Event] = {}
        self._running: dict[str, asyncio.Task[None]] = {}

    async def ask(self, name: str, size_bytes: int) -> None:
        self._ends[name] = asyncio.Event()
        self._running[name] = self._tasks.create_task(self._call(name, size_bytes))
        await asyncio.sleep(0)

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self._running[name]
        await asyncio.sleep(0)

    def cancel(self, name: str) -> None:
        self._running[name].cancel()

    async def _call(self, name: str, size_bytes: int) -> None:
        async with self._flow.slot(size_bytes):
            self.going.append(name)
            await self._ends[name].wait()


async def _a_large_one_among_small_ones() -> list[str]:
    flow, half = Flow(max_requests=64, max_bytes=1), WINDOW_BYTES // 2
    async with asyncio.TaskGroup() as tasks:
        calls = Calls(flow, tasks)
        for name, size_bytes in (("a", half), ("b", half // 2), ("large", WINDOW_BYTES), ("c", 1), ("d", 1)):
            await calls.ask(name, size_bytes)
        for name in ("a", "b", "large", "c", "d"):
            await calls.end(name)
    assert flow.requests == 0
    return calls.going


def test_a_large_request_goes_before_small_ones_that_asked_later() -> None:
    assert asyncio.run(_a_large_one_among_small_ones()) == ["a", "b", "large", "c", "d"]


async def _one_that_gives_up() -> tuple[list[str], int]:
    flow = Flow(max_requests=1, max_bytes=1)
    async with asyncio.TaskGroup() as tasks:
        calls = Calls(flow, tasks)
        for name in ("a", "b", "c"):
            await calls.ask(name, WINDOW_BYTES)
        calls.cancel("b")
        await calls.end("a")
        await calls.end("c")
    return calls.going, flow.requests


def test_one_that_gives_up_its_place_lets_the_next_one_go() -> None:
    assert asyncio.run(_one_that_gives_up()) == (["a", "c"], 0)


async def _cancelled_between_turn_and_going() -> tuple[bool, int]:
    flow = Flow(max_requests=1, max_bytes=1)

    async def call() -> None:
        async with flow.slot(1):
            pass

    async with asyncio.TaskGroup() as tasks:
        async with flow.slot(1):
            late = tasks.create_task(call())
            await asyncio.sleep(0)
        late.cancel()  # it has its turn, and did not run yet
        await asyncio.wait([late])
    return late.cancelled(), flow.requests


def test_a_turn_that_comes_too_late_is_given_back() -> None:
    assert asyncio.run(_cancelled_between_turn_and_going()) == (True, 0)
