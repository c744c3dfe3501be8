"""Full-jitter exponential backoff."""

from __future__ import annotations

import random


class Backoff:
    """Delays that are uniform between 0 and an exponentially growing cap.

    "Full jitter" of https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/: it spreads a fleet of
    daemons best after an outage of the service.
    """

    def __init__(self, rng: random.Random, *, base_s: float = 0.25, cap_s: float = 30.0) -> None:
        self._rng = rng
        self._base_s = base_s
        self._cap_s = cap_s
        self.failures = 0

    def next_s(self, *, scale: float = 1.0) -> float:
        """The delay after one more failure; `scale` stretches it."""
        ceiling = min(self._cap_s, self._base_s * 2 ** min(self.failures, 16)) * scale
        self.failures += 1
        return self._rng.uniform(0, ceiling)

    def reset(self) -> None:
        """It works again."""
        self.failures = 0
