"""Record batches of a `do_put` as rows to publish: known columns, sound memory, no nulls where none can be sent."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from penstock.contract.publishing import MAX_PUT_BYTES, MESSAGES_SCHEMA, TRACE_KEYS, Trace
from penstock.errors import InvalidRequest
from penstock.publish.limits import MAX_ATTRIBUTES, MAX_VALUE_BYTES, Fault, not_utf8
from penstock.pubsub.attributes import with_attributes
from penstock.pubsub.wire import lengths

BURIED_DATA_BYTES = 9_000_000
"""Of a dead letter: with 100 attributes of its own it still fits a request."""

REASON, TOPIC = "penstock_reason", "penstock_topic"
"""Attributes of a dead letter: what is wrong with it, and where it was to go."""


def check_schema(schema: pa.Schema) -> None:
    """Raises `InvalidRequest` for anything but columns of `MESSAGES_SCHEMA`."""
    for field in schema:
        if field.name not in MESSAGES_SCHEMA.names:
            raise InvalidRequest(
                f"column {field.name!r} is none of {', '.join(MESSAGES_SCHEMA.names)}: put the columns into `data`, in "
                "Spark with to_json(struct(*)) as data",
                column=field.name,
            )
        wanted = MESSAGES_SCHEMA.field(field.name).type
        # Names and nullability inside a map are the writer's own affair.
        same = pa.types.is_map(field.type) and (field.type.key_type, field.type.item_type) == (pa.string(), pa.string())
        if field.type != wanted and not (same and pa.types.is_map(wanted)):
            raise InvalidRequest(f"column {field.name!r} is {field.type}; {wanted} is needed", column=field.name)
    if len(set(schema.names)) != len(schema.names) or not {"data", "attributes"} & set(schema.names):
        raise InvalidRequest(f"columns {', '.join(schema.names) or '(none)'}: data or attributes is needed, each once")


def received(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, list[Fault]]:
    """Rows with all columns of `MESSAGES_SCHEMA`, and those of them with bytes that are no UTF-8 where there must be.

    Checks what came from outside before anything native trusts it. Raises `InvalidRequest`.
    """
    if batch.nbytes > MAX_PUT_BYTES:
        raise InvalidRequest(
            f"a record batch of {batch.nbytes:,} bytes; {MAX_PUT_BYTES:,} are allowed: write smaller ones"
        )
    garbled = _garbled(batch)
    columns = [
        batch.column(name) if name in batch.schema.names else _absent(name, len(batch))
        for name in MESSAGES_SCHEMA.names
    ]
    attributes = columns[1]
    if attributes.keys.null_count:
        raise InvalidRequest("column 'attributes' has a key that is null")
    if attributes.null_count or attributes.items.null_count:
        columns[1] = _without_nulls(attributes)
    else:  # one type for all, whatever the writer says of nulls and names inside a map
        columns[1] = pa.MapArray.from_arrays(attributes.offsets, attributes.keys, attributes.items)
    return pa.RecordBatch.from_arrays(columns, names=MESSAGES_SCHEMA.names), garbled


def traced(rows: pa.RecordBatch, trace: Trace, numbers: npt.NDArray[np.int64]) -> pa.RecordBatch:
    """With the attributes that name each row: by its number within the write, and by what is in the rows beside it.

    A batch that Spark runs again in other partitions has other rows under the same numbers: those are no duplicates.
    """
    content = xxhash.xxh3_64_hexdigest(rows.serialize())
    own = pc.binary_join_element_wise(trace.partition, pa.array(numbers).cast(pa.string()), content, "-")
    values = pa.repeat(trace.query, len(rows)), pa.repeat(trace.batch, len(rows)), own
    return with_attributes(rows, dict(zip(TRACE_KEYS, values, strict=True)))


def by_topic(rows: pa.RecordBatch, default: str | None) -> Iterator[tuple[str, npt.NDArray[np.int64] | None]]:
    """Each topic that rows name ("" where neither they nor the write do), and their positions; None: all of them."""
    topics = rows.column("topic")
    if topics.null_count == len(topics):
        yield default or "", None
        return
    encoded = topics.fill_null(default or "").dictionary_encode()
    codes = encoded.indices.to_numpy()
    for code, topic in enumerate(encoded.dictionary):
        yield topic.as_py(), np.flatnonzero(codes == code)


def buried(rows: pa.RecordBatch, found: Sequence[Fault], topic: str | None) -> pa.RecordBatch:
    """Dead letters of the rows of some faults, in their order: each can be published, and says what is wrong with it.

    Data is cut where a request would end; attributes stay unless the row breaks a rule with them; keys are left out.
    `topic`: of rows that name none, or none that can be written down.
    """
    reason_of = np.full(len(rows), -1)
    bare, lost = np.zeros(len(rows), bool), lengths(rows.column("topic")) > MAX_VALUE_BYTES
    for number, fault in reversed(list(enumerate(found))):
        reason_of[fault.rows] = number
        bare[fault.rows] |= fault.column == "attributes"
        lost[fault.rows] |= fault.column == "topic"
    chosen = np.flatnonzero(reason_of >= 0)
    rows, bare, lost = rows.take(pa.array(chosen)), bare[chosen], lost[chosen]
    attributes = rows.column("attributes")
    columns = {
        "data": _cut_data(rows.column("data")),
        "attributes": _kept(attributes, np.repeat(~bare, np.diff(attributes.offsets.to_numpy()))),
        "ordering_key": pa.nulls(len(rows), pa.string()),
    }
    reasons = pa.array([_cut_text(f"column {fault.column}: {fault.rule}") for fault in found])
    topics = pc.if_else(pa.array(lost), pa.scalar(None, pa.string()), rows.column("topic")).fill_null(topic or "")
    added = {REASON: reasons.take(pa.array(reason_of[chosen])), TOPIC: topics}
    return with_attributes(pa.RecordBatch.from_pydict(columns), added, most=MAX_ATTRIBUTES)


def _garbled(batch: pa.RecordBatch) -> list[Fault]:
    """Rows whose strings are no UTF-8. Raises `InvalidRequest` when offsets lead out of their buffers."""
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        pass
    else:
        return []
    found: list[Fault] = []
    try:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if not pa.types.is_map(column.type):
                column.view(pa.binary()).validate(full=True)
                wrong = not_utf8(column) if pa.types.is_string(column.type) else np.array([], np.int64)
            else:
                octets = [part.view(pa.binary()) for part in (column.keys, column.items)]
                pa.MapArray.from_arrays(column.offsets, *octets).validate(full=True)
                entries = np.concatenate((not_utf8(column.keys), not_utf8(column.items)))
                wrong = np.unique(np.searchsorted(column.offsets.to_numpy(), entries, side="right") - 1)
                wrong = wrong[(wrong >= 0) & (wrong < len(column))]
            if len(wrong):
                found.append(Fault(wrong, name, "bytes that are no UTF-8"))
    except pa.ArrowInvalid as error:
        raise InvalidRequest(f"a record batch that is no sound Arrow: {error}") from error
    return found


def _without_nulls(attributes: pa.MapArray) -> pa.MapArray:
    """A null map is an empty one, and an attribute that is null is absent: protobuf has no nulls."""
    first, last = (attributes.offsets[at].as_py() for at in (0, -1))
    there = attributes.items.slice(first, last - first).is_valid().to_numpy(zero_copy_only=False)
    rows_there = attributes.is_valid().to_numpy(zero_copy_only=False)
    return _kept(attributes, there & np.repeat(rows_there, np.diff(attributes.offsets.to_numpy())))


def _kept(attributes: pa.MapArray, there: npt.NDArray[np.bool_]) -> pa.MapArray:
    """Only these of the entries that belong to the rows."""
    offsets = attributes.offsets.to_numpy()
    entries = slice(int(offsets[0]), int(offsets[-1]))
    mask = pa.array(there)
    parts = [part[entries].filter(mask) for part in (attributes.keys, attributes.items)]
    counted = np.concatenate(([0], np.cumsum(there)))
    return pa.MapArray.from_arrays(pa.array(counted[offsets - offsets[0]].astype(np.int32)), *parts)


def _cut_data(data: pa.Array) -> pa.Array:
    """At most `BURIED_DATA_BYTES` of each value: where none is longer, which is the rule, the same array."""
    if not len(data) or lengths(data).max() <= BURIED_DATA_BYTES:
        return data
    # A record batch has room for a few such values only. (Arrow's own slice overflows on them.)
    return pa.array(
        [value.as_buffer()[:BURIED_DATA_BYTES].to_pybytes() if value.is_valid else None for value in data], data.type
    )


def _cut_text(text: str) -> str:
    """What of it an attribute's value has room for."""
    return text.encode()[:MAX_VALUE_BYTES].decode(errors="ignore")


@functools.lru_cache(maxsize=64)
def _absent(name: str, length: int) -> pa.Array:
    kind = MESSAGES_SCHEMA.field(name).type
    if name == "attributes":
        empty = pa.array([], pa.string())
        return pa.MapArray.from_arrays(pa.array(np.zeros(length + 1, np.int32)), empty, empty)
    return pa.nulls(length, kind)
