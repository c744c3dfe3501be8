"""Holds every message between the service and Spark: batches, leases, budget, contact, accounting.

Decoded chunks enter through `Subscription.receive`; sealed batches leave as `Snapshot`s for readers, ack IDs leave
through an `AckSink`. Where batches are to outlive the process, rows and decisions go to a `BatchStore` before anybody
hears of them; where they may outgrow memory, rows go to a `SpillSink`. Where a query has several nodes, one of them
deals the slices to tasks (`plans`). All methods are plain functions called on one thread with the clock's time; nothing
here knows grpc, Flight, files or the event loop (but for the `wait_` methods of `Supply`, which only wait).
"""

from penstock.reservoir.batch import Part, Snapshot
from penstock.reservoir.durably import durably
from penstock.reservoir.ports import AckOutcome, AckSink, ChunkSink, NotPulling, Pulling
from penstock.reservoir.reservoir import Reservoir
from penstock.reservoir.subscription import Subscription

__all__ = [
    "AckOutcome",
    "AckSink",
    "ChunkSink",
    "NotPulling",
    "Part",
    "Pulling",
    "Reservoir",
    "Snapshot",
    "Subscription",
    "durably",
]
