"""The short form of the soak: leases hold beside a load, and a pause costs no message and gives none twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.soak.run import Setup, Soak

# 15 s where nothing else runs; what it waits for may take longer, never for ever.
pytestmark = [pytest.mark.timeout(300), pytest.mark.long]


def test_held_messages_keep_their_leases_beside_a_load_and_a_pause_gives_none_twice(tmp_path: Path) -> None:
    # The pause outlasts the shortest deadline, so that what is held does lapse.
    setup = Setup(minutes=0.15, held=20_000, deadline_s=10, pause_s=11)
    outcome = Soak(setup, tmp_path, print).run()
    assert outcome.broken() == []
    assert (outcome.held_sealed, outcome.held_unsealed) == (10_000, 10_000)
    assert outcome.committed_per_s > 0
    assert outcome.pauses >= 1
    assert outcome.lapsed >= 10_000, "what was unsealed and lapsed is dropped"
