"""How one limit is divided among nodes."""

from __future__ import annotations

import pytest

from penstock.client.sharing import shared_out


@pytest.mark.parametrize(
    ("limit", "waiting", "parts"),
    [
        (20, [90, 10], [18, 2]),
        (10, [0, 0], [5, 5]),
        (1, [0, 0, 0], [1, 0, 0]),
        (1, [1, 5], [0, 1]),
        (10, [1, 1_000_000], [1, 9]),
        (3, [1, 1_000_000, 1], [1, 1, 1]),
        (10, [0, 1_000_000], [0, 10]),
        (4096, [1_000_000, 1], [4095, 1]),
    ],
)
def test_parts_add_up_and_little_that_waits_beside_much_has_its_turn(
    limit: int, waiting: list[int], parts: list[int]
) -> None:
    assert shared_out(limit, waiting) == parts
