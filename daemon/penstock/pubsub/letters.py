"""Dead letters: messages with what is wrong with them as attributes, within the service's limits. Sans-I/O."""

from __future__ import annotations

import pyarrow as pa

from penstock.pubsub.attributes import with_attributes

MAX_ATTRIBUTES = 100
"""Of one message (https://cloud.google.com/pubsub/quotas#resource_limits). Its own come first: of ours, the first that
have room are added."""

SUBSCRIPTION, MESSAGE_ID = "penstock_subscription", "penstock_message_id"
DELIVERY_ATTEMPT, REASON = "penstock_delivery_attempt", "penstock_reason"
KEYS = (SUBSCRIPTION, MESSAGE_ID, DELIVERY_ATTEMPT, REASON)


def letters(rows: pa.RecordBatch, subscription: str, reason: str) -> pa.RecordBatch:
    """Rows (`ROWS_SCHEMA`) with four attributes more, which replace older ones of these names."""
    values = (
        pa.repeat(subscription, len(rows)),
        rows.column("message_id"),
        rows.column("delivery_attempt").cast(pa.string()),
        pa.repeat(reason, len(rows)),
    )
    return with_attributes(rows, dict(zip(KEYS, values, strict=True)), most=MAX_ATTRIBUTES)
