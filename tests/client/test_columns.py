"""Columns as people have them become messages, whole columns at a time, or an error names the column and the fix."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.client import json_text
from penstock.client.columns import Columns
from penstock.contract.publishing import MESSAGES_SCHEMA
from penstock.errors import InvalidMessage, InvalidRequest

MAP = pa.map_(pa.string(), pa.string())
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


def converted(batch: pa.RecordBatch, **options: Any) -> dict[str, list[Any]]:
    columns = Columns(batch.schema, **options)
    (made,) = columns.converted([batch])
    assert made.schema.equals(columns.sent)
    return dict(made.to_pydict())


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.string(), pa.large_binary(), pa.large_string(), pa.string_view(), pa.binary_view()]
)
@pytest.mark.parametrize("name", ["data", "payload"])
def test_data_may_be_text_or_bytes_under_either_name(kind: pa.DataType, name: str) -> None:
    batch = pa.RecordBatch.from_pydict({name: pa.array([b"x", None], pa.binary()).cast(pa.string()).cast(kind)})
    assert converted(batch) == {"data": [b"x", None]}


def test_what_a_daemon_is_sent_has_the_contracts_types() -> None:
    batch = pa.RecordBatch.from_pydict(
        {"topic": ["t"], "ordering_key": ["k"], "attributes": pa.array([[("a", "1")]], MAP), "payload": ["x"]}
    )
    assert Columns(batch.schema).sent == MESSAGES_SCHEMA


def test_topics_may_be_ids_of_the_project() -> None:
    batch = pa.RecordBatch.from_pydict({"data": ["x"] * 3, "topic": ["t", "projects/q/topics/t", None]})
    assert converted(batch, project="p")["topic"] == ["projects/p/topics/t", "projects/q/topics/t", None]


@given(
    maps=st.lists(st.none() | st.dictionaries(TEXTS, TEXTS, max_size=4), min_size=1, max_size=10),
    ascii_only=st.booleans(),
)
def test_attributes_may_be_json_objects(maps: list[dict[str, str] | None], *, ascii_only: bool) -> None:
    texts = [None if one is None else json.dumps(one, ensure_ascii=ascii_only) for one in maps]
    batch = pa.RecordBatch.from_pydict({"attributes": pa.array(texts, pa.string())})
    assert [dict(one) for one in converted(batch)["attributes"]] == [one or {} for one in maps]


@pytest.mark.parametrize(
    "text",
    ['{"a":1}', "[]", "null", "", '{"a":"b",}', '{"a"}', '{"a":{"b":"c"}}', 'x{"a":"b"}', '{"a":"\\x"}', '{"a":"\\"}'],
)
def test_attributes_that_are_no_json_object_of_strings_are_refused(text: str) -> None:
    batch = pa.RecordBatch.from_pydict({"attributes": ["{}", text]})
    with pytest.raises(InvalidMessage, match="column attributes"):
        converted(batch)
    made = converted(batch, lenient=True)["attributes"]
    assert made == [[], [("", "")]], "for the daemon to find"


@pytest.mark.parametrize(
    "text", ['{"a":"\x01"}', '{"a":"\n"}', '{"a":"\\ud800"}', '{"a":"\\udc00\\ud800"}', '{"a":"\\u12"}']
)
def test_a_refused_row_is_named_whatever_is_wrong_with_its_json(text: str) -> None:
    batch = pa.RecordBatch.from_pydict({"attributes": ["{}", text]})
    with pytest.raises(InvalidMessage, match="row 1 of this write"):
        converted(batch)
    assert converted(batch, lenient=True)["attributes"] == [[], [("", "")]]


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "text": st.none() | TEXTS,
                "number": st.none() | st.integers(-(1 << 63), (1 << 63) - 1),
                "real": st.none() | st.floats(allow_nan=False, allow_infinity=False),
                "flag": st.none() | st.booleans(),
                "list": st.none() | st.lists(st.none() | TEXTS, max_size=3),
                "nested": st.none()
                | st.fixed_dictionaries({"in": st.none() | TEXTS, "deep": st.lists(st.integers(0, 9))}),
                "map": st.none() | st.dictionaries(TEXTS, st.none() | st.integers(0, 9), max_size=3),
            }
        ),
        min_size=1,
        max_size=6,
    )
)
def test_the_json_payload_is_what_json_would_be_without_nulls(values: list[dict[str, Any]]) -> None:
    schema = pa.schema(
        [
            ("text", pa.string()),
            ("number", pa.int64()),
            ("real", pa.float64()),
            ("flag", pa.bool_()),
            ("list", pa.list_(pa.string())),
            ("nested", pa.struct([("in", pa.string()), ("deep", pa.list_(pa.int64()))])),
            ("map", pa.map_(pa.string(), pa.int64())),
        ]
    )
    given_rows = [{**one, "map": None if one["map"] is None else list(one["map"].items())} for one in values]
    batch = pa.RecordBatch.from_pylist(given_rows, schema=schema)
    got = [json.loads(text) for text in converted(batch, as_json=True)["data"]]
    assert got == [_without_nulls(one) for one in values]


def _without_nulls(value: dict[str, Any]) -> dict[str, Any]:
    """Of structs, as Spark's to_json does it; not of lists and maps."""
    kept = {key: item for key, item in value.items() if item is not None}
    if "nested" in kept:
        kept["nested"] = {key: item for key, item in kept["nested"].items() if item is not None}
    return kept


def test_json_has_times_and_days_as_text_and_numbers_that_json_has_not_as_well() -> None:
    batch = pa.RecordBatch.from_pydict(
        {
            "at": pa.array([1_500_000], pa.timestamp("us", tz="Europe/Berlin")),
            "local": pa.array([1_500_000], pa.timestamp("us")),
            "day": pa.array([1], pa.date32()),
            "price": pa.array(["1.50"]).cast(pa.decimal128(5, 2)),
            "real": [float("nan")],
        }
    )
    assert json.loads(converted(batch, as_json=True)["data"][0]) == {
        "at": "1970-01-01T00:00:01.500000Z",
        "local": "1970-01-01T00:00:01.500000",
        "day": "1970-01-02",
        "price": 1.5,
        "real": "NaN",
    }


def test_columns_of_other_libraries_are_what_they_stand_for() -> None:
    """Categories of pandas, and what Polars makes of text and lists."""
    batch = pa.RecordBatch.from_pydict(
        {
            "category": pa.array(["a", None, "a"]).dictionary_encode(),
            "view": pa.array(["x", "y", None], pa.string_view()),
            "large": pa.array([["x"], None, []], pa.large_list(pa.large_string())),
            "fixed": pa.array([[1, 2], None, [3, None]], pa.list_(pa.int8(), 2)),
            "ordering_key": pa.array(["k", "k", None]).dictionary_encode(),
        }
    )
    made = converted(batch, as_json=True)
    assert [json.loads(text) for text in made["data"]] == [
        {"category": "a", "view": "x", "large": ["x"], "fixed": [1, 2]},
        {"view": "y"},
        {"category": "a", "large": [], "fixed": [3, None]},
    ]
    assert made["ordering_key"] == ["k", "k", None]
    data = pa.RecordBatch.from_pydict({"data": pa.array([b"a", b"b", b"a"]).dictionary_encode()})
    assert converted(data)["data"] == [b"a", b"b", b"a"]


def test_what_json_has_less_room_for_is_cut_off() -> None:
    batch = pa.RecordBatch.from_pydict({"at": pa.array([1_500_000_001], pa.timestamp("ns"))})
    assert converted(batch, as_json=True)["data"] == [b'{"at":"1970-01-01T00:00:01.500000"}']


@given(values=st.lists(st.lists(TEXTS, max_size=3) | st.none(), min_size=1, max_size=20), start=st.integers(0, 19))
def test_a_part_of_a_column_is_the_same_json_as_alone(values: list[list[str] | None], start: int) -> None:
    maps = [None if texts is None else [(f"k{at}", text) for at, text in enumerate(texts)] for texts in values]
    whole = {"list": pa.array(values, pa.list_(pa.string())), "map": pa.array(maps, MAP)}
    texts = json_text.encode({name: column[start:] for name, column in whole.items()}, len(values[start:]))
    assert texts.equals(json_text.encode(whole, len(values))[start:])


def test_a_batch_too_large_for_one_column_is_converted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.client.pieces.PIECE_BYTES", 100)
    batch = pa.RecordBatch.from_pydict({"x": [list(range(at)) for at in range(50)], "ordering_key": ["k"] * 50})
    parts = list(Columns(batch.schema, as_json=True).converted([batch]))
    assert len(parts) > 10
    assert [json.loads(text)["x"] for part in parts for text in part["data"].to_pylist()] == batch["x"].to_pylist()


def test_values_that_cannot_be_converted_are_an_error_that_names_the_column_and_the_rows() -> None:
    never = pa.array([1 << 62], pa.timestamp("s"))
    batch = pa.RecordBatch.from_pydict({"x": never})
    with pytest.raises(InvalidRequest, match="column 'data' of the 1 rows from 0 on cannot be converted: Casting from"):
        converted(batch, as_json=True)


def test_columns_beside_the_payload_stay_what_they_are_with_json() -> None:
    batch = pa.RecordBatch.from_pydict({"x": [1], "ordering_key": ["k"], "attributes": ['{"a":"b"}'], "data": ["d"]})
    assert converted(batch, as_json=True) == {
        "data": [b'{"x":1,"data":"d"}'],
        "attributes": [[("a", "b")]],
        "ordering_key": ["k"],
    }


@pytest.mark.parametrize(
    ("columns", "as_json", "words"),
    [
        (
            {"body": ["x"]},
            False,
            r"column 'body' \(string\) is none of data.*to_json\(struct\(\*\)\) as data.*format=json",
        ),
        ({"data": [1]}, False, "column 'data' is int64; binary or string is needed"),
        ({"data": ["x"], "payload": ["x"]}, False, "two names for one thing"),
        ({"ordering_key": ["x"]}, False, r"data \(or payload\) or attributes is needed"),
        ({"data": ["x"], "ordering_key": [b"x"]}, False, "column 'ordering_key' is binary; string is needed"),
        ({"attributes": ["{}"]}, True, "no column besides attributes"),
        ({"x": pa.array([], pa.map_(pa.binary(), pa.int8()))}, True, r"column 'x\.key' is binary, which JSON has no"),
        ({"x": pa.array([], pa.map_(pa.struct([]), pa.int8()))}, True, r"column 'x\.key' is struct<>, which JSON"),
        ({"x": [b"x"]}, True, r"column 'x' is binary, which JSON has no form for: convert it, as with base64\(x\)"),
    ],
)
def test_columns_that_cannot_be_meant_are_named(columns: dict[str, Any], *, as_json: bool, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        Columns(pa.RecordBatch.from_pydict(columns).schema, as_json=as_json)


def test_a_row_of_nulls_is_an_empty_object() -> None:
    array = pa.array([None, None], pa.int64())
    assert json_text.encode({"a": array, "b": array}, 2).to_pylist() == ["{}", "{}"]
