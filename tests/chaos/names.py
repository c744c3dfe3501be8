"""What a run has on Pub/Sub: a topic that two queries read, and the one that the second of them writes to."""

from __future__ import annotations

TOPIC = "projects/p/topics/orders"

KEPT = "projects/p/subscriptions/orders"
COPIED = "projects/p/subscriptions/orders-to-copy"
READ = (KEPT, COPIED)
"""By the query with the file sink, and by the one that copies."""

OUTPUT_TOPIC = "projects/p/topics/copies"
OUTPUT = "projects/p/subscriptions/copies"
"""Nobody reads it before the end."""
