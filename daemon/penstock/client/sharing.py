"""Dividing what one batch may have among the nodes that have rows waiting."""

from __future__ import annotations

from collections.abc import Sequence


def shared_out(limit: int, waiting: Sequence[int]) -> list[int]:
    """Parts of `limit` in proportion to what waits, adding up to it: the largest remainder method.

    Where nothing waits anywhere the parts are equal, but for what cannot be divided.
    """
    weights = list(waiting) if any(waiting) else [1] * len(waiting)
    total = sum(weights)
    parts = [limit * weight // total for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda index: (-(limit * weights[index] % total), index))
    for index in by_remainder[: limit - sum(parts)]:
        parts[index] += 1
    return parts
