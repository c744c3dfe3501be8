"""Dead letters carry what is wrong with them, within the limits of the service, and fit into requests."""

from __future__ import annotations

import pyarrow as pa
import pytest
from google.pubsub_v1.types import PublishRequest
from hypothesis import given
from hypothesis import strategies as st

from penstock.contract import ROWS_SCHEMA
from penstock.pubsub import wire
from penstock.pubsub.letters import KEYS, MAX_ATTRIBUTES, letters

NAME = "projects/p/subscriptions/orders"
Attributes = list[tuple[str, str]]


def rows(attributes: list[Attributes], *, data: bytes = b"x") -> pa.RecordBatch:
    count = len(attributes)
    columns = [
        pa.array([f"m{n}" for n in range(count)], pa.string()),
        pa.array([data] * count, pa.binary()),
        pa.array(attributes, ROWS_SCHEMA.field("attributes").type),
        pa.array([0] * count, ROWS_SCHEMA.field("publish_time").type),
        pa.array([None if n % 2 else f"k{n % 8}" for n in range(count)], pa.string()),
        pa.array([6 + n for n in range(count)], pa.int32()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=ROWS_SCHEMA)


def ours(number: int) -> Attributes:
    return list(zip(KEYS, (NAME, f"m{number}", str(6 + number), "why"), strict=True))


def test_a_letter_keeps_its_attributes_and_gets_four_more() -> None:
    made = letters(rows([[], [("a", "1"), ("b", "2")], []]), NAME, "why")
    assert made.schema == ROWS_SCHEMA
    assert made.column("attributes").to_pylist() == [ours(0), [("a", "1"), ("b", "2"), *ours(1)], ours(2)]
    assert made.column("data").to_pylist() == [b"x"] * 3


def test_a_letter_of_a_letter_says_the_newest_only() -> None:
    (made,) = letters(rows([[("a", "1"), (KEYS[0], "before"), (KEYS[3], "old")]]), NAME, "why").column("attributes")
    assert made.as_py() == [("a", "1"), *ours(0)]


@pytest.mark.parametrize("own", [95, 96, 97, 98, 99, 100])
def test_a_message_never_gets_more_attributes_than_the_service_allows(own: int) -> None:
    attributes = [(f"a{n}", "") for n in range(own)]
    (made,) = letters(rows([attributes]), NAME, "why").column("attributes")
    assert made.as_py() == [*attributes, *ours(0)[: MAX_ATTRIBUTES - own]]


names = st.text("abcxyz_", max_size=8)
attribute_lists = st.lists(
    st.one_of(
        st.dictionaries(names | st.sampled_from(KEYS), names, max_size=5),
        st.integers(94, 100).map(lambda count: {f"n{n}": "v" for n in range(count)}),
    ),
    max_size=6,
)


@given(attribute_lists, st.integers(0, 6))
def test_letters_equal_those_made_one_by_one(given_attributes: list[dict[str, str]], start: int) -> None:
    whole = rows([list(attributes.items()) for attributes in given_attributes])
    part = whole.slice(min(start, len(whole)))
    expected = []
    for number, attributes in enumerate(given_attributes):
        kept = [(key, value) for key, value in attributes.items() if key not in KEYS]
        expected.append([*kept, *ours(number)[: MAX_ATTRIBUTES - len(kept)]])
    assert letters(part, NAME, "why").column("attributes").to_pylist() == expected[start:]


@given(st.lists(st.integers(0, 5_000_000), max_size=30), st.integers(0, 3), st.integers(0, 5))
def test_requests_hold_all_rows_in_order_and_keep_the_limits(sizes: list[int], attributes: int, start: int) -> None:
    many = [[("k" * 50, "v" * 200)] * attributes] * len(sizes)
    column = ROWS_SCHEMA.get_field_index("data")
    offsets = pa.array([0, *([0] * len(sizes))], pa.int64()).to_numpy().copy()
    for number, size in enumerate(sizes):
        offsets[number + 1] = offsets[number] + size
    data = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(sizes), [None, pa.py_buffer(offsets), pa.py_buffer(bytes(int(offsets[-1])))]
    ).cast(pa.binary())
    whole = rows(many).set_column(column, ROWS_SCHEMA.field(column), data).slice(min(start, len(sizes)))
    parts = list(wire.cut_publish(whole))
    ids = [message for part in parts for message in part.column("message_id").to_pylist()]
    assert ids == whole.column("message_id").to_pylist()
    for part in parts:
        assert 1 <= len(part) <= wire.MAX_PUBLISH_ROWS
        assert len(part) == 1 or len(wire.encode_publish(NAME, part)) <= 9_500_000 + 1000


def test_many_small_rows_are_cut_by_their_number() -> None:
    parts = list(wire.cut_publish(rows([[]] * 2500)))
    assert [len(part) for part in parts] == [1000, 1000, 500]
    request = PublishRequest.deserialize(wire.encode_publish("t", letters(parts[0], NAME, "why")))
    assert len(request.messages) == 1000
    assert dict(request.messages[1].attributes) == dict(ours(1))
    assert (request.messages[0].ordering_key, request.messages[1].ordering_key) == ("k0", "")
