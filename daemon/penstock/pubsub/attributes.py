"""Attributes added to a column of them, whatever number of rows at a time. Sans-I/O."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def with_attributes(rows: pa.RecordBatch, added: Mapping[str, pa.Array], *, most: int | None = None) -> pa.RecordBatch:
    """Rows with these attributes after their own, one value for each row; they replace older ones of their names.

    Of a row that would have more than `most` the first ones that have room are added.
    """
    attributes, count = rows.column("attributes"), len(rows)
    own_rows = np.repeat(np.arange(count), np.diff(attributes.offsets.to_numpy()))
    first, last = attributes.offsets[0].as_py(), attributes.offsets[-1].as_py()
    own_keys, own_items = attributes.keys.slice(first, last - first), attributes.items.slice(first, last - first)
    kept = pc.invert(pc.is_in(own_keys, value_set=pa.array(list(added), pa.string())))
    own_rows = own_rows[kept.to_numpy(zero_copy_only=False)]
    own_keys, own_items = own_keys.filter(kept), own_items.filter(kept)
    room = np.full(count, len(added))
    if most is not None:
        room = np.minimum(most - np.bincount(own_rows, minlength=count), room)
    chosen = [np.flatnonzero(room > number) for number in range(len(added))]
    of_row = np.concatenate((own_rows, *chosen))
    keys = pa.concat_arrays([own_keys, *(pa.repeat(key, len(at)) for key, at in zip(added, chosen, strict=True))])
    values = [value.take(pa.array(at)) for value, at in zip(added.values(), chosen, strict=True)]
    order = pa.array(np.argsort(of_row, kind="stable"))
    offsets = np.concatenate(([0], np.cumsum(np.bincount(of_row, minlength=count)))).astype(np.int32)
    items = pa.concat_arrays([own_items, *values]).take(order)
    column = rows.schema.get_field_index("attributes")
    return rows.set_column(
        column, rows.schema.field(column), pa.MapArray.from_arrays(pa.array(offsets), keys.take(order), items)
    )
