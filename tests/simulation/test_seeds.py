"""The product keeps its promises in every simulated world, and a seed tells its history the same way twice."""

from __future__ import annotations

import pytest
from tests.simulation.seeds import run_seed, run_seeds

SEEDS = 200
DRAINED_SEEDS = 60
"""Of worlds in which daemons get SIGTERM; in the others they are killed."""


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("seeds", "stress"), [(SEEDS, ()), (DRAINED_SEEDS, ("daemon_drain",))])
def test_every_promise_holds_in_every_world(seeds: int, stress: tuple[str, ...]) -> None:
    looked_at = 0
    for result in run_seeds(0, seeds, stress=stress):
        assert result.failure is None, f"seed {result.seed}: {result.failure}\n{result.story}"
        looked_at += 1
    assert looked_at == seeds


@pytest.mark.parametrize("seed", [5, 14, 25, 54])
def test_a_seed_is_the_same_history_every_time(seed: int) -> None:
    first, second = (run_seed(seed, lines=None) for _ in range(2))
    assert first.story.splitlines() == second.story.splitlines()
    assert first == second
    assert first.faults
