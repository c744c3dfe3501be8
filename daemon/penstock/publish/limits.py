"""What Pub/Sub would refuse for what it is, found before anything is sent. Whole columns at a time.

The limits are those of https://cloud.google.com/pubsub/quotas#resource_limits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from penstock.pubsub.wire import MAX_PUBLISH_BYTES, lengths

MAX_DATA_BYTES = 10_000_000
MAX_ATTRIBUTES = 100
MAX_KEY_BYTES, MAX_VALUE_BYTES = 256, 1024
MAX_ORDERING_KEY_BYTES = 1024

Amounts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fault:
    """Rows that break one rule (their numbers, ascending), and the column. `value`: of the first of them."""

    rows: npt.NDArray[np.int64]
    column: str
    rule: str
    value: str = ""

    def __str__(self) -> str:
        """Such as `column data: more than 10,000,000 bytes (12,000,000)`."""
        return f"column {self.column}: {self.rule}" + (f" ({self.value})" if self.value else "")


def faults(rows: pa.RecordBatch) -> list[Fault]:
    """All broken rules of rows with `data`, `attributes` and `ordering_key`; none for what may be sent."""
    attributes = rows.column("attributes")
    data_bytes, key_bytes = lengths(rows.column("data")), lengths(rows.column("ordering_key"))
    counts = np.diff(attributes.offsets.to_numpy())
    found = [
        _more("data", data_bytes, MAX_DATA_BYTES, "bytes"),
        _more("ordering_key", key_bytes, MAX_ORDERING_KEY_BYTES, "bytes"),
        _more("attributes", counts, MAX_ATTRIBUTES, "entries"),
        _empty(data_bytes, counts),
    ]
    size = data_bytes + key_bytes
    if len(attributes.keys):
        # Of the entries that belong to these rows, which may be a slice.
        first, last = (int(attributes.offsets[at].as_py()) for at in (0, -1))
        of_row = np.repeat(np.arange(len(rows)), counts)
        keys, values = (lengths(part.slice(first, last - first)) for part in (attributes.keys, attributes.items))
        size = size + np.bincount(of_row, keys + values, len(rows)).astype(np.int64)
        found += [
            _more("attributes", keys, MAX_KEY_BYTES, "bytes in a key", of_row),
            _more("attributes", values, MAX_VALUE_BYTES, "bytes in a value", of_row),
            _keyless(keys, of_row),
        ]
    # Data that is too large alone was said above.
    whole = np.where(data_bytes > MAX_DATA_BYTES, 0, size)
    found.append(_more("attributes", whole, MAX_PUBLISH_BYTES, "bytes with the rest of the message"))
    return [fault for fault in found if fault is not None]


def not_utf8(texts: pa.Array) -> npt.NDArray[np.int64]:
    """Positions of values of a string array that are no UTF-8. Halves until it knows: for arrays that have some."""
    found: list[int] = []
    parts = [(0, len(texts))]
    while parts:
        start, stop = parts.pop()
        if start == stop or _is_utf8(texts.slice(start, stop - start)):
            continue
        if stop - start == 1:
            found.append(start)
        else:
            middle = (start + stop) // 2
            parts += [(start, middle), (middle, stop)]
    return np.array(sorted(found), np.int64)


def _is_utf8(texts: pa.Array) -> bool:
    try:
        pc.cast(texts.view(pa.binary()), pa.string())
    except pa.ArrowInvalid:
        return False
    return True


def _more(
    column: str, amounts: Amounts, most: int, unit: str, of_row: npt.NDArray[np.int64] | None = None
) -> Fault | None:
    """Amounts above `most`, of rows or of what belongs to the rows `of_row`."""
    if not len(amounts) or amounts.max() <= most:
        return None
    wrong = np.flatnonzero(amounts > most)
    rows = wrong if of_row is None else np.unique(of_row[wrong])
    return Fault(rows, column, f"more than {most:,} {unit}", f"{amounts[wrong[0]]:,}")


def _empty(data_bytes: Amounts, counts: Amounts) -> Fault | None:
    wrong = np.flatnonzero((data_bytes == 0) & (counts == 0))
    return Fault(wrong, "data", "empty, and there are no attributes") if len(wrong) else None


def _keyless(key_bytes: Amounts, of_row: npt.NDArray[np.int64]) -> Fault | None:
    wrong = np.flatnonzero(key_bytes == 0)
    # The clients make an empty key of text that is no JSON object of strings (`client.json_text`).
    rule = "an empty key, or no JSON object of strings"
    return Fault(np.unique(of_row[wrong]), "attributes", rule) if len(wrong) else None
