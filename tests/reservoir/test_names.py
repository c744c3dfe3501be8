"""The names of traced rows, as `names_of` finds them among any attributes."""

from __future__ import annotations

import hypothesis.strategies as st
import pyarrow as pa
from hypothesis import given

from penstock.contract.publishing import TRACE_KEYS
from penstock.reservoir.names import MAX_NAME_BYTES, names_of

KIND = pa.map_(pa.string(), pa.string())

attributes = st.dictionaries(
    st.sampled_from([*TRACE_KEYS, "other", ""]), st.one_of(st.none(), st.text("a/é", max_size=3)), max_size=5
)


def name(row: dict[str, str | None] | None) -> bytes | None:
    parts = [(row or {}).get(key) for key in TRACE_KEYS]
    return b"\xff".join(part.encode() for part in parts if part) if all(parts) else None


@given(st.lists(st.one_of(st.none(), attributes), max_size=8), st.integers(0, 3))
def test_a_row_has_a_name_if_it_has_all_three_attributes(rows: list[dict[str, str | None] | None], first: int) -> None:
    column = pa.array([None if row is None else list(row.items()) for row in rows], KIND).slice(first)
    found = names_of(column)
    expected = [name(row) for row in rows[first:]]
    assert (found.to_pylist() if found is not None else [None] * len(expected)) == expected
    assert (found is None) is not any(expected)


def test_different_triples_have_different_names() -> None:
    triples = [("a", "b", "c"), ("ab", "c", "c"), ("a", "bc", "c"), ("a/b", "c", "c")]
    found = names_of(pa.array([list(zip(TRACE_KEYS, triple, strict=True)) for triple in triples], KIND))
    assert found is not None
    assert len(set(found.to_pylist())) == len(triples)


def test_a_name_that_is_longer_than_ours_is_none() -> None:
    long = "x" * (MAX_NAME_BYTES - 4)
    rows = [list(zip(TRACE_KEYS, ("q", "1", text), strict=True)) for text in (long, long + "x")]
    found = names_of(pa.array(rows, KIND))
    assert found is not None
    assert found.is_valid().to_pylist() == [True, False]
