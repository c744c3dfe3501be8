"""What a `do_put` says both ways, protocol version 1: the descriptor's command, progress, and the last word."""

from __future__ import annotations

import dataclasses

import pyarrow as pa

from penstock.contract.body import Body, Request

MESSAGES_SCHEMA = pa.schema(
    [
        pa.field("data", pa.binary()),
        pa.field("attributes", pa.map_(pa.string(), pa.string())),
        pa.field("ordering_key", pa.string()),
        pa.field("topic", pa.string()),
    ]
)
"""The rows of a `do_put`: any of these columns in any order, `data` or `attributes` among them. Nulls are absent."""

MAX_PUT_BYTES = 64 << 20
"""Of one record batch of a `do_put`: it is in memory before the daemon can refuse it."""

FLUSH_TIMEOUT_S, RETRY_TIMEOUT_S = 60.0, 600.0
"""Defaults: the first is Google's own for a publish call, the second for all tries of one together."""

LONGEST_TIMEOUT_S = 86_400.0
"""Of both: a write that takes longer holds its memory and its place among others for nothing."""

ON_INVALID = ("fail", "skip", "deadletter")
"""What becomes of a row that Pub/Sub would refuse: it fails the write, is left out, or goes to `dead_letter_topic`."""

TRACE_KEYS = ("penstock_query", "penstock_batch", "penstock_row")
"""Attributes that name a row, the same ones each time that Spark writes it again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trace(Body):
    """Values of `TRACE_KEYS`; a row's own is `{partition}-{its number within the partition}`."""

    query: str
    batch: str
    partition: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class PutRequest(Request):
    """Publish the rows that follow. `topic`: of rows that name none; None: each names its own. Full names.

    `flush_timeout_s`: from the last row until all are confirmed. `retry_timeout_s`: for all tries of one request.
    `compress_above_bytes`: requests larger than this are sent with gzip; None: none. `progress`: tell now and then.
    """

    topic: str | None = None
    flush_timeout_s: float = FLUSH_TIMEOUT_S
    retry_timeout_s: float = RETRY_TIMEOUT_S
    compress_above_bytes: int | None = None
    create_topic: bool = False
    on_invalid: str = "fail"
    dead_letter_topic: str | None = None
    trace: Trace | None = None
    progress: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class PutEnd(Body):
    """The metadata of the last record batch, which is empty: how many `rows` came before it.

    A stream that ends without it was cut, and what was not sent to Pub/Sub by then never is.
    """

    rows: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class PutReply(Body):
    """All `rows` are done: `messages` were confirmed by Pub/Sub, the rest was `skipped` or `dead_lettered`.

    `bytes`: of the requests, before compression. The IDs are those of the first and the last message published.
    """

    rows: int
    messages: int
    bytes: int
    requests: int
    skipped: int = 0
    dead_lettered: int = 0
    first_message_id: str | None = None
    last_message_id: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PutProgress(Body):
    """Of `rows` taken so far `confirmed` are done."""

    rows: int
    confirmed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class PutSaid(Body):
    """The metadata of a `do_put`: one of the two. Without `done` nobody may take the write for finished."""

    progress: PutProgress | None = None
    done: PutReply | None = None
