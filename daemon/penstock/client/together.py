"""Calls to several nodes at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

MOST_AT_ONCE = 32
"""Threads that wait for nodes: a call takes a millisecond, so hundreds of nodes take some more."""


class SideBySide:
    """Satisfies `calls.Together`, with threads that are made when they are first needed."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None

    def __call__(self, works: Sequence[Callable[[], T]], /) -> list[T]:
        """What each returned. Raises what the first one that failed has raised, once all have ended."""
        if len(works) < 2:
            return [work() for work in works]
        if self._threads is None:
            self._threads = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="penstock-call")
        running = [self._threads.submit(work) for work in works]
        failed = [error for call in running if (error := call.exception()) is not None]
        if failed:
            raise failed[0]
        return [call.result() for call in running]
