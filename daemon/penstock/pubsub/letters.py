"""Dead letters: messages with what is wrong with them as attributes, within the service's limits. Sans-I/O."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.contract import ROWS_SCHEMA

MAX_ATTRIBUTES = 100
"""Of one message (https://cloud.google.com/pubsub/quotas#resource_limits). Its own come first: of ours, the first that
have room are added."""

SUBSCRIPTION, MESSAGE_ID = "penstock_subscription", "penstock_message_id"
DELIVERY_ATTEMPT, REASON = "penstock_delivery_attempt", "penstock_reason"
KEYS = (SUBSCRIPTION, MESSAGE_ID, DELIVERY_ATTEMPT, REASON)


def letters(rows: pa.RecordBatch, subscription: str, reason: str) -> pa.RecordBatch:
    """Rows (`ROWS_SCHEMA`) with four attributes more, which replace older ones of these names."""
    attributes, count = rows.column("attributes"), len(rows)
    own_rows = np.repeat(np.arange(count), np.diff(attributes.offsets.to_numpy()))
    first, last = attributes.offsets[0].as_py(), attributes.offsets[-1].as_py()
    own_keys, own_items = attributes.keys.slice(first, last - first), attributes.items.slice(first, last - first)
    kept = pc.invert(pc.is_in(own_keys, value_set=pa.array(KEYS)))
    own_rows = own_rows[kept.to_numpy(zero_copy_only=False)]
    own_keys, own_items = own_keys.filter(kept), own_items.filter(kept)
    values = (
        pa.repeat(subscription, count),
        rows.column("message_id"),
        rows.column("delivery_attempt").cast(pa.string()),
        pa.repeat(reason, count),
    )
    room = np.minimum(MAX_ATTRIBUTES - np.bincount(own_rows, minlength=count), len(KEYS))
    added = [np.flatnonzero(room > number) for number in range(len(KEYS))]
    of_row = np.concatenate((own_rows, *added))
    keys = pa.concat_arrays([own_keys, *(pa.repeat(key, len(at)) for key, at in zip(KEYS, added, strict=True))])
    items = pa.concat_arrays([own_items, *(value.take(pa.array(at)) for value, at in zip(values, added, strict=True))])
    order = pa.array(np.argsort(of_row, kind="stable"))
    offsets = np.concatenate(([0], np.cumsum(np.bincount(of_row, minlength=count)))).astype(np.int32)
    more = pa.MapArray.from_arrays(pa.array(offsets), keys.take(order), items.take(order))
    column = ROWS_SCHEMA.get_field_index("attributes")
    return rows.set_column(column, ROWS_SCHEMA.field(column), more)
