"""Columns as people have them, made into those of a `do_put`. Whole columns at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from penstock.client import json_text
from penstock.client.pieces import MOST_BYTES, pieces
from penstock.contract.publishing import MESSAGES_SCHEMA
from penstock.errors import InvalidRequest

DATA = ("data", "payload")
BESIDE = ("attributes", "ordering_key", "topic")
"""Columns that are a message's own, whatever its payload is made of."""

_TEXT = {"string"}
_ALLOWED: dict[str, set[str]] = {
    "data": {"binary", "string"},
    "payload": {"binary", "string"},
    "attributes": {"map<string,string>", "string"},
    "ordering_key": _TEXT,
    "topic": _TEXT,
}


def check_columns(kinds: Mapping[str, str], *, as_json: bool) -> None:
    """Raises `InvalidRequest`, naming the column and the fix. `kinds`: column → type, as Spark writes it."""
    for name, kind in kinds.items():
        if name not in _ALLOWED or (as_json and name not in BESIDE):
            if not as_json:
                raise InvalidRequest(
                    f"column {name!r} ({kind}) is none of {', '.join(_ALLOWED)}: select "
                    f"to_json(struct(*)) as data, or set the option format=json, which makes the payload of such "
                    "columns",
                    column=name,
                )
        elif kind not in _ALLOWED[name]:
            wanted = " or ".join(sorted(_ALLOWED[name]))
            raise InvalidRequest(
                f"column {name!r} is {kind}; {wanted} is needed: cast it, or make it with to_json", column=name
            )
    if as_json:
        if not set(kinds) - set(BESIDE):
            raise InvalidRequest("format=json: there is no column besides " + ", ".join(kinds))
    elif set(DATA) <= set(kinds):
        raise InvalidRequest("columns 'data' and 'payload' are two names for one thing: drop one", column="payload")
    elif not {*DATA, "attributes"} & set(kinds):
        raise InvalidRequest(f"columns {', '.join(kinds) or '(none)'}: data (or payload) or attributes is needed")


def kind_of(kind: pa.DataType) -> str:
    """An Arrow type as `check_columns` wants it."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return "binary"
    if pa.types.is_dictionary(kind):
        return kind_of(kind.value_type)
    if pa.types.is_map(kind):
        return f"map<{kind_of(kind.key_type)},{kind_of(kind.item_type)}>"
    return str(kind)


@dataclass(frozen=True)
class Columns:
    """Makes record batches of `schema` into those that a daemon takes, which have `sent`.

    `project`: of topics that are IDs only. `lenient`: rows with attributes that are no JSON, or with more data than a
    daemon takes, go to it as others that Pub/Sub refuses. Raises `InvalidRequest` when made.
    """

    schema: pa.Schema
    as_json: bool = False
    project: str | None = None
    lenient: bool = False

    def __post_init__(self) -> None:
        """Check."""
        check_columns({field.name: kind_of(field.type) for field in self.schema}, as_json=self.as_json)
        if len(set(self.schema.names)) != len(self.schema.names):
            raise InvalidRequest(f"columns {', '.join(self.schema.names)}: each name at most once")
        if self.as_json:
            for name in self._payload_names():
                json_text.encodable(self.schema.field(name).type, name)

    @property
    def sent(self) -> pa.Schema:
        """The schema of what `converted` gives."""
        names = {"data" if name in DATA else name for name in self.schema.names if name in _ALLOWED}
        return pa.schema(
            [field for field in MESSAGES_SCHEMA if field.name in names | ({"data"} if self.as_json else set())]
        )

    def converted(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The rows, in pieces: of a batch of gigabytes Arrow could make no column that is sent.

        Raises `InvalidRequest` for batches of another schema and for values that cannot be converted; unless
        `lenient`, `InvalidMessage` for attributes that are no JSON.
        """
        first_row, sent = 0, self.sent
        for batch in batches:
            if (batch.schema.names, batch.schema.types) != (self.schema.names, self.schema.types):
                raise InvalidRequest(
                    f"the record batch that begins with row {first_row} has the columns {_shown(batch.schema)}, the "
                    f"first one had {_shown(self.schema)}: write them in two writes, or make them alike"
                )
            for piece in pieces(batch):
                columns = [self._column(field.name, piece, first_row) for field in sent]
                yield pa.RecordBatch.from_arrays(columns, schema=sent)
                first_row += piece.num_rows

    def _payload_names(self) -> list[str]:
        return [name for name in self.schema.names if name not in BESIDE]

    def _column(self, name: str, batch: pa.RecordBatch, first_row: int) -> pa.Array:
        try:
            return self._converted(name, batch, first_row)
        except pa.ArrowException as error:
            raise InvalidRequest(
                f"column {name!r} of the {batch.num_rows} rows from {first_row} on cannot be converted: {error}",
                column=name,
            ) from error

    def _converted(self, name: str, batch: pa.RecordBatch, first_row: int) -> pa.Array:
        if name == "data" and self.as_json:
            fields = {payload: batch.column(payload) for payload in self._payload_names()}
            return self._fit(pc.cast(json_text.encode(fields, batch.num_rows), pa.binary()))
        if name == "data":
            (own,) = set(DATA) & set(batch.schema.names)
            return self._fit(pc.cast(json_text.decoded(batch.column(own)), pa.binary()))
        column = json_text.decoded(batch.column(name))
        if name == "attributes":
            if pa.types.is_map(column.type):
                return _map_of_strings(column)
            return json_text.attributes(pc.cast(column, pa.string()), first_row, lenient=self.lenient)
        column = pc.cast(column, pa.string())
        if name == "topic" and self.project is not None:
            whole = pc.binary_join_element_wise(f"projects/{self.project}/topics/", column, "")
            return pc.if_else(pc.match_substring(column, "/"), column, whole)
        return column

    def _fit(self, data: pa.Array) -> pa.Array:
        """`lenient`: of a value that no daemon takes so much that it still is one that Pub/Sub refuses."""
        if not self.lenient or len(data) != 1 or data.nbytes <= MOST_BYTES:
            return data
        return pa.array([data[0].as_buffer()[:MOST_BYTES].to_pybytes()], pa.binary())


def _shown(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


def _map_of_strings(column: pa.MapArray) -> pa.MapArray:
    """With 32-bit offsets and the field names of `MESSAGES_SCHEMA`."""
    wanted = MESSAGES_SCHEMA.field("attributes").type
    return column if column.type == wanted else column.cast(wanted)
