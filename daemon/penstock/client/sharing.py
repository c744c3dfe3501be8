"""Dividing what one batch may have among the nodes that have rows waiting."""

from __future__ import annotations

from collections.abc import Sequence


def shared_out(limit: int, waiting: Sequence[int]) -> list[int]:
    """Parts of `limit` in proportion to what waits, adding up to it: the largest remainder method.

    Whoever has something waiting gets at least 1, if that is enough for all of them: little that waits beside much
    would else wait for as long as there is much. Where nothing waits anywhere the parts are equal, but for what cannot
    be divided.
    """
    weights = list(waiting) if any(waiting) else [1] * len(waiting)
    total = sum(weights)
    parts = [limit * weight // total for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda index: (-(limit * weights[index] % total), index))
    for index in by_remainder[: limit - sum(parts)]:
        parts[index] += 1
    if limit >= sum(weight > 0 for weight in weights):
        for index, weight in enumerate(weights):
            if weight and not parts[index]:
                parts[parts.index(max(parts))] -= 1
                parts[index] = 1
    return parts
