"""The Flight client that Spark's source and sink, plain Python and the command line share.

Offsets, limits and tickets enter; action calls leave, and record batches come back. The protocol's rules for a reader
are in `driver` (no threads, no sockets: nodes, clock and sleep are handed in), its threads in `session`, its sockets in
`node`; what a task does besides is in `claiming` and `patient`. The room must not know Spark, Pub/Sub or how a daemon
works inside; it imports pyarrow and nothing else.
"""

from penstock.client.calls import ReaderSettings
from penstock.client.claiming import claim, own_node
from penstock.client.consumer import Batch, Consumer
from penstock.client.driver import CarriedCommit, Driver, Limits
from penstock.client.listing import Listed, daemon_address
from penstock.client.node import NodeClient
from penstock.client.offset import NamedBatch, Offset
from penstock.client.patient import read_patiently
from penstock.client.planning import PlanHost, PlannedRead
from penstock.client.publisher import Publisher
from penstock.client.session import Session
from penstock.client.together import SideBySide
from penstock.client.writing import WriteSettings, write

__all__ = [
    "Batch",
    "CarriedCommit",
    "Consumer",
    "Driver",
    "Limits",
    "Listed",
    "NamedBatch",
    "NodeClient",
    "Offset",
    "PlanHost",
    "PlannedRead",
    "Publisher",
    "ReaderSettings",
    "Session",
    "SideBySide",
    "WriteSettings",
    "claim",
    "daemon_address",
    "own_node",
    "read_patiently",
    "write",
]
