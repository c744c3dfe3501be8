"""Hashes of message IDs are those of the IDs alone, whatever is beside them."""

from __future__ import annotations

import hypothesis.strategies as st
import pyarrow as pa
from hypothesis import given, settings

from penstock.reservoir.id_table import hashes_of


@given(ids=st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=20))
@settings(deadline=None)
def test_an_id_hashes_the_same_alone_and_beside_shorter_and_longer_ones(ids: list[str]) -> None:
    together = hashes_of(pa.array(["", *ids], pa.string()).slice(1)).tolist()
    assert together == [int(hashes_of(pa.array([one], pa.string()))[0]) for one in ids]
    assert len(set(together)) == len(set(ids))


def test_long_ids_that_differ_at_their_end_are_told_apart() -> None:
    ids = [f"{'x' * 100}{n}" for n in range(100, 200)]
    assert len(set(hashes_of(pa.array(ids, pa.string())).tolist())) == 100


def test_what_is_no_id_is_like_nothing_else() -> None:
    hashes = hashes_of(pa.array(["", None, "", "7"], pa.string())).tolist()
    assert len(set(hashes)) == 4
    assert hashes_of(pa.array(["", "7"], pa.string())).tolist()[1] == hashes[3]
    assert hashes_of(pa.array([], pa.string())).tolist() == []
