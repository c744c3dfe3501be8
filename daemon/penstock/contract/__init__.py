"""All that daemon and clients share: names, schema, tickets, action bodies, limits.

Nothing enters or leaves here; both sides import it. It knows neither sockets nor Arrow Flight, and it imports the
standard library and pyarrow only, since it runs inside Spark's Python workers.
"""

from penstock.contract.names import Reader, new_id, new_node, same_site, subscription_path, topic_path
from penstock.contract.schema import COLUMNS, ROWS_SCHEMA, project

PROTOCOL_VERSION = 1
"""Version of the Flight protocol; a daemon refuses any other with `ProtocolMismatch`."""

DEFAULT_ENDPOINT = "localhost:8815"
"""Where a client looks for a daemon when nobody says otherwise."""

MAX_CONSUMERS = 64
MAX_PUTS = 64
MAX_SLICES = 4096
MAX_BODY_BYTES = 4 << 20

MAX_NAME_LENGTH = 256
"""Longest name that a daemon keeps (of a consumer, a reader, a plan, a batch); those that we make have 32 characters,
those of nodes and addresses a host's name besides."""

MAX_EXCLUDED = 256
"""Excluded batches that a node keeps for one consumer: of 64 nodes that were lost in each of four epochs."""

HEARTBEATS_PER_TIMEOUT = 12
"""A driver says `alive` this many times within `consumer_timeout_s`."""

__all__ = [
    "COLUMNS",
    "DEFAULT_ENDPOINT",
    "HEARTBEATS_PER_TIMEOUT",
    "MAX_BODY_BYTES",
    "MAX_CONSUMERS",
    "MAX_EXCLUDED",
    "MAX_NAME_LENGTH",
    "MAX_PUTS",
    "MAX_SLICES",
    "PROTOCOL_VERSION",
    "ROWS_SCHEMA",
    "Reader",
    "new_id",
    "new_node",
    "project",
    "same_site",
    "subscription_path",
    "topic_path",
]
