"""What comes from outside is sound Arrow before anything native follows its offsets, and nulls are absences."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.contract.publishing import MESSAGES_SCHEMA
from penstock.errors import InvalidRequest
from penstock.publish.limits import faults, not_utf8
from penstock.publish.rows import buried, by_topic, received
from penstock.pubsub import wire

MAP = MESSAGES_SCHEMA.field("attributes").type
ROWS = 4
outcomes = {"refused": 0, "taken": 0}


def bent_batch(rng: random.Random) -> pa.RecordBatch:
    """Columns whose offsets may go back, overlap, or lead out of the buffer they point into."""
    steps = rng.choice([(0, 1, 2), (0, 1, 2, 3, 5, 9), (0, 1, 1 << 30)])

    def offsets() -> pa.Buffer:
        # The first and the last are right: without that Arrow itself makes no array of it.
        chosen = [0] + [rng.choice(steps) for _ in range(ROWS - 1)] + [3]
        if rng.random() < 0.9:
            chosen = sorted(min(one, 3) for one in chosen)
        return pa.py_buffer(np.array(chosen, np.int32))

    def texts(kind: pa.DataType) -> pa.Array:
        octets = bytes(rng.choice((97, 98, 255)) for _ in range(8))
        return pa.Array.from_buffers(kind, ROWS, [None, offsets(), pa.py_buffer(octets)])

    pairs = pa.StructArray.from_arrays([texts(pa.string()), texts(pa.string())], fields=list(MAP.field(0).type))
    columns = [
        texts(pa.binary()),
        pa.Array.from_buffers(MAP, ROWS, [None, offsets()], children=[pairs]),
        texts(pa.string()),
        texts(pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=MESSAGES_SCHEMA)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 1 << 30))
def test_memory_that_leads_nowhere_is_refused_and_all_else_can_be_sent(seed: int) -> None:
    batch = bent_batch(random.Random(seed))
    try:
        rows, garbled = received(batch)
    except InvalidRequest:
        outcomes["refused"] += 1
        return
    outcomes["taken"] += 1
    sound = np.ones(ROWS, bool)
    for fault in [*garbled, *faults(rows)]:
        sound[fault.rows] = False
    kept = rows.filter(pa.array(sound))
    kept.validate(full=True)
    if len(kept):
        parts = [positions for _, positions in by_topic(kept, None)]
        assert sum(len(kept) if part is None else len(part) for part in parts) == len(kept)
        wire.encode_publish("projects/p/topics/topic", kept)
    found = [*garbled, *faults(rows)]
    if found:
        letters = buried(rows, found, "projects/p/topics/topic")
        assert len(letters) == ROWS - int(sound.sum())
        letters.validate(full=True)
        assert faults(letters) == []


def test_both_outcomes_were_met() -> None:
    assert min(outcomes.values()) > 10, outcomes


@given(texts=st.lists(st.binary(max_size=6), max_size=20))
def test_values_that_are_no_utf8_are_found_one_by_one(texts: list[bytes]) -> None:
    def sound(text: bytes) -> bool:
        try:
            text.decode()
        except UnicodeDecodeError:
            return False
        return True

    array = pa.array(texts, pa.binary()).view(pa.string())
    assert not_utf8(array).tolist() == [n for n, text in enumerate(texts) if not sound(text)]


PAIRS = st.lists(st.tuples(st.text(max_size=3), st.none() | st.text(max_size=3)), max_size=4)


@given(maps=st.lists(st.none() | PAIRS, min_size=1, max_size=8), cut=st.integers(0, 7))
def test_null_attributes_are_absent_and_null_maps_empty(
    maps: list[list[tuple[str, str | None]] | None], cut: int
) -> None:
    batch = pa.RecordBatch.from_pydict({"attributes": pa.array(maps, MAP)}).slice(min(cut, len(maps) - 1))
    rows, garbled = received(batch)
    assert garbled == []
    wanted = [[(k, v) for k, v in one or [] if v is not None] for one in batch.column(0).to_pylist()]
    assert rows.column("attributes").to_pylist() == wanted
