"""Ctrl-C, remembered: it ends the demo even when a library swallows it."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import NoReturn, Self


class Interrupts:
    """`with Interrupts() as interrupts:` leaves with `KeyboardInterrupt` if Ctrl-C was pressed within, come what may.

    Spark answers Ctrl-C by cancelling all jobs, so that the query fails too; and an exception raised while Python runs
    a finalizer, of which py4j has one for each Java object, is printed and forgotten. Main thread only.
    """

    def __init__(self) -> None:
        self._pressed = False
        self._before = signal.getsignal(signal.SIGINT)

    def watch(self) -> None:
        """Take the signal, also from a library that has taken it since."""
        signal.signal(signal.SIGINT, self._press)

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if Ctrl-C was pressed."""
        if self._pressed:
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        """Take the signal."""
        self.watch()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signal back."""
        signal.signal(signal.SIGINT, self._before)
        if self._pressed and not isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt from error

    def _press(self, _number: int, _frame: FrameType | None) -> NoReturn:
        self._pressed = True
        raise KeyboardInterrupt
