"""The Flight client that Spark's source and sink, plain Python and the command line share.

Offsets, limits and tickets enter; action calls leave, and record batches come back. The protocol's rules for a reader
are in `driver` (no threads, no sockets: nodes, clock and sleep are handed in), its threads in `session`, its sockets in
`node`; what a task does besides is in `claiming` and `patient`. The room must not know Spark, Pub/Sub or how a daemon
works inside; it imports pyarrow and nothing else.
"""

from penstock.client.calls import ReaderSettings
from penstock.client.claiming import claim, own_node
from penstock.client.consumer import Batch, Consumer
from penstock.client.driver import Driver, Limits, PlannedRead
from penstock.client.node import NodeClient
from penstock.client.offset import NamedBatch, Offset
from penstock.client.patient import read_patiently
from penstock.client.publisher import Publisher
from penstock.client.session import Session
from penstock.client.writing import WriteSettings, write

__all__ = [
    "Batch",
    "Consumer",
    "Driver",
    "Limits",
    "NamedBatch",
    "NodeClient",
    "Offset",
    "PlannedRead",
    "Publisher",
    "ReaderSettings",
    "Session",
    "WriteSettings",
    "claim",
    "own_node",
    "read_patiently",
    "write",
]
