"""The product keeps its promises in every simulated world, and a seed tells its history the same way twice."""

from __future__ import annotations

import time

import pytest
from tests.simulation.seeds import run_seed, run_seeds

BUDGET_S = 12.0
"""As many seeds as fit into this, at most `SEEDS`: a slow machine looks at fewer and never fails for it."""

SEEDS = 300


@pytest.mark.parametrize("stress", [(), ("daemon_drain",)])
def test_every_promise_holds_in_every_world(stress: tuple[str, ...]) -> None:
    began, looked_at = time.process_time(), 0
    for result in run_seeds(0, SEEDS, stress=stress):
        assert result.failure is None, f"seed {result.seed}: {result.failure}\n{result.story}"
        looked_at += 1
        if time.process_time() - began > BUDGET_S:
            break
    assert looked_at


@pytest.mark.parametrize("seed", [5, 14, 25, 54])
def test_a_seed_is_the_same_history_every_time(seed: int) -> None:
    first, second = (run_seed(seed, lines=None) for _ in range(2))
    assert first.story.splitlines() == second.story.splitlines()
    assert first == second
    assert first.faults
