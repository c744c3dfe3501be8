"""Time for deadlines: it never jumps with the wall clock, and it goes on while the machine is suspended."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds from some fixed start. Passed in everywhere, so that tests and simulations bring their own."""


def boottime() -> float:
    """Seconds since boot, suspension included (`CLOCK_BOOTTIME`; elsewhere than on Linux the monotonic clock)."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
