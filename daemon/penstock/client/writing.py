"""One write, the same for Spark's tasks and plain Python: columns checked and converted, then a `do_put`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import pyarrow as pa

from penstock.client.columns import Columns
from penstock.client.node import NodeClient
from penstock.client.put import Told
from penstock.contract import PROTOCOL_VERSION
from penstock.contract.publishing import FLUSH_TIMEOUT_S, RETRY_TIMEOUT_S, PutReply, PutRequest, Trace

COMPRESS_ABOVE_BYTES = 240
"""Google's own publishers leave requests below this as they are: gzip makes them no smaller."""


@dataclass(frozen=True, kw_only=True)
class WriteSettings:
    """How rows are published. `topic`: full name; None where each row names its own. `project`: of topics by ID.

    The others are those of `PutRequest`.
    """

    topic: str | None
    project: str | None = None
    as_json: bool = False
    flush_timeout_s: float = FLUSH_TIMEOUT_S
    retry_timeout_s: float = RETRY_TIMEOUT_S
    compress_above_bytes: int | None = None
    create_topic: bool = False
    on_invalid: str = "fail"
    dead_letter_topic: str | None = None

    def request(self, trace: Trace | None = None) -> PutRequest:
        """For the daemon."""
        return PutRequest(
            v=PROTOCOL_VERSION,
            topic=self.topic,
            flush_timeout_s=self.flush_timeout_s,
            retry_timeout_s=self.retry_timeout_s,
            compress_above_bytes=self.compress_above_bytes,
            create_topic=self.create_topic,
            on_invalid=self.on_invalid,
            dead_letter_topic=self.dead_letter_topic,
            trace=trace,
        )


def write(
    node: NodeClient,
    settings: WriteSettings,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    *,
    trace: Trace | None = None,
    told: Told | None = None,
) -> PutReply:
    """Publish all rows: the reply comes when Pub/Sub has confirmed every one. Raises `PenstockError`."""
    lenient = settings.on_invalid != "fail"
    columns = Columns(schema, as_json=settings.as_json, project=settings.project, lenient=lenient)
    request = replace(settings.request(trace), progress=told is not None)
    return node.put(request, columns.sent, columns.converted(batches), told)
