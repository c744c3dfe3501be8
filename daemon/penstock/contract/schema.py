"""The one schema that rows have from the decoder to Spark."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from penstock.errors import InvalidRequest

# Exactly what PySpark's check of a Python data source accepts: 32-bit offsets, every field nullable, map values too.
ROWS_SCHEMA = pa.schema(
    [
        pa.field("message_id", pa.string()),
        pa.field("data", pa.binary()),
        pa.field("attributes", pa.map_(pa.string(), pa.string())),
        pa.field("publish_time", pa.timestamp("us", tz="UTC")),
        pa.field("ordering_key", pa.string()),
        pa.field("delivery_attempt", pa.int32()),
    ]
)
COLUMNS: tuple[str, ...] = tuple(ROWS_SCHEMA.names)


def project(columns: Sequence[str] | None) -> pa.Schema:
    """The schema of some columns in the order asked for; all of them for None.

    Raises `InvalidRequest` for an unknown, repeated or empty choice.
    """
    if columns is None:
        return ROWS_SCHEMA
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown or not columns or len(set(columns)) != len(columns):
        raise InvalidRequest(
            f"columns {list(columns)}: choose each at most once, at least one, from {', '.join(COLUMNS)}"
        )
    return pa.schema([ROWS_SCHEMA.field(name) for name in columns])
