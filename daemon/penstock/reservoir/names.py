"""The name that the sink's `tracing` gives a row, out of a column of attributes, in a few native calls."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.contract.publishing import TRACE_KEYS

MAX_NAME_BYTES = 128
"""Ours have some 60: a query's UUID, two numbers and a row's. Longer ones are not ours, and remembering them would
cost; `id_table` hashes no more either."""

_BETWEEN = b"\xff"
"""No UTF-8 text has this octet, so that no two different names look the same."""


def names_of(attributes: pa.MapArray) -> pa.Array | None:
    """A name for each row (binary), null for rows that lack one of its parts; None when no row has a name.

    A part that is empty names nothing.
    """
    rows = len(attributes)
    offsets = attributes.offsets.to_numpy()
    first, last = (int(offsets[0]), int(offsets[-1])) if rows else (0, 0)
    if first == last:
        return None
    keys, values = (part.slice(first, last - first) for part in (attributes.keys, attributes.items))
    parts = []
    for key in TRACE_KEYS:
        at = np.flatnonzero(pc.equal(keys, key).fill_null(False).to_numpy(zero_copy_only=False))
        if not len(at):
            return None
        of_row = np.zeros(rows, np.int64)
        absent = np.ones(rows, bool)
        row = np.searchsorted(offsets, at + first, side="right") - 1
        of_row[row], absent[row] = at, False
        parts.append(values.take(pa.array(of_row, mask=absent)).cast(pa.binary()))
    names = pc.binary_join_element_wise(*parts, _BETWEEN)
    whole = pc.less_equal(pc.binary_length(names), MAX_NAME_BYTES)
    for part in parts:
        whole = pc.and_(whole, pc.greater(pc.binary_length(part), 0))
    names = pc.if_else(whole.fill_null(False), names, pa.scalar(None, pa.binary()))
    return names if names.null_count < rows else None
