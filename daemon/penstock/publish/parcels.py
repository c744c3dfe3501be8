"""Rows gathered for a moment and cut into parcels, each the messages of one PublishRequest. Sans-I/O."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from penstock.pubsub.wire import cut_sizes, encode_publish, publish_sizes

LINGER_S = 0.005
LINGER_BYTES = 5_000_000
"""Few rows wait so long for more, or until there is so much. A request costs a third of a millisecond of a core and a
trip to the service whatever is in it; 5 ms are a tenth of that trip."""

JOIN_BYTES = 256 << 10
"""Record batches below this are joined before they are cut: a copy of so little costs less than a request more."""


class Parcel:
    """Messages of one topic and one ordering key ("" for none), in order. `size_bytes`: of their request, at most.

    `number`: of parcels; `cut`: of times that what had gathered was cut.
    """

    def __init__(self, number: int, cut: int, topic: str, key: str, rows: pa.RecordBatch, size_bytes: int) -> None:
        self.number = number
        self.cut = cut
        self.topic = topic
        self.key = key
        self.messages = len(rows)
        self.size_bytes = size_bytes
        self._rows: pa.RecordBatch | None = rows
        self._encoded: bytes | None = None

    def __repr__(self) -> str:
        """Such as `<Parcel 3: 1000 messages of 'key' to projects/p/topics/t>`."""
        return f"<Parcel {self.number}: {self.messages} messages of {self.key!r} to {self.topic}>"

    def encode(self) -> None:
        """Make the request. Until then its rows hold the memory of all that they were cut from."""
        rows, self._rows = self._rows, None
        assert rows is not None, "encoded once"
        self._encoded = encode_publish(self.topic, rows)

    def take_encoded(self) -> bytes:
        """The request, once."""
        if self._encoded is None:
            self.encode()
        encoded, self._encoded = self._encoded, None
        assert encoded is not None, "made above"
        return encoded


class Gathering:
    """Rows that wait, by topic: `size_bytes` of them. Parcels are numbered in the order in which they are cut."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._waiting: dict[str, list[pa.RecordBatch]] = {}
        self._oldest = math.inf
        self._numbers = itertools.count()
        self._cuts = 0

    def __bool__(self) -> bool:
        """Whether rows wait."""
        return bool(self._waiting)

    def add(self, topic: str, rows: pa.RecordBatch, now: float) -> None:
        """Rows with the columns that `wire.encode_publish` takes, at least one."""
        self._waiting.setdefault(topic, []).append(rows)
        self.size_bytes += rows.nbytes
        self._oldest = min(self._oldest, now)

    def wait_s(self, now: float) -> float:
        """How long to wait for more; 0: `cut` now; infinite: nothing waits."""
        return 0.0 if self.size_bytes >= LINGER_BYTES else max(self._oldest + LINGER_S - now, 0.0)

    def cut(self) -> Iterator[Parcel]:
        """All that waits, as parcels."""
        waiting, self._waiting, self.size_bytes, self._oldest = self._waiting, {}, 0, math.inf
        self._cuts += 1
        for topic, batches in waiting.items():
            keyed = any(_has_keys(batch) for batch in batches)
            if keyed and len(batches) > 1:  # few large requests for each key rather than many small ones
                batches = [pa.concat_batches(batches)]  # noqa: PLW2901
            for rows in _joined(batches):
                ordered, keys = _by_key(rows) if keyed else (rows, [("", 0, len(rows))])
                sizes = publish_sizes(ordered)  # once: of a slice it looks at the attributes of all rows
                for key, first, last in keys:
                    for start, stop in cut_sizes(sizes[first:last]):
                        size_bytes = int(sizes[first + start : first + stop].sum())
                        part = ordered.slice(first + start, stop - start)
                        yield Parcel(next(self._numbers), self._cuts, topic, key, part, size_bytes)


def _has_keys(rows: pa.RecordBatch) -> bool:
    return bool(rows.column("ordering_key").null_count < len(rows))


def _joined(batches: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Neighbours that are small as one, up to the size at which gathering ends."""
    small: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        if small and (batch.nbytes >= JOIN_BYTES or size >= LINGER_BYTES):
            yield pa.concat_batches(small)
            small, size = [], 0
        if batch.nbytes >= JOIN_BYTES:
            yield batch
        else:
            small.append(batch)
            size += batch.nbytes
    if small:
        yield small[0] if len(small) == 1 else pa.concat_batches(small)


def _by_key(rows: pa.RecordBatch) -> tuple[pa.RecordBatch, list[tuple[str, int, int]]]:
    """Rows by ordering key, those of each in their order, and from where to where they are.

    A request has messages of one key only:
    https://cloud.google.com/pubsub/docs/reference/rest/v1/PubsubMessage, `orderingKey`.
    """
    encoded = rows.column("ordering_key").fill_null("").dictionary_encode()
    codes, keys = encoded.indices.to_numpy(), encoded.dictionary
    if len(keys) == 1:
        return rows, [(keys[0].as_py(), 0, len(rows))]
    order = np.argsort(codes, kind="stable")
    ordered = rows.take(pa.array(order))
    borders = np.concatenate(([0], np.cumsum(np.bincount(codes, minlength=len(keys))))).tolist()
    return ordered, list(zip(keys.to_pylist(), borders, borders[1:], strict=False))
