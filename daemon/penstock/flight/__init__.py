"""The Arrow Flight server: turns Flight calls into calls of the reservoir, and sealed batches into streams.

Action bodies and tickets enter, replies and record batches leave. Handlers run on C++ threads and cross into the loop;
the room must not know Pub/Sub, gRPC, how a subscription is pulled (it asks an `Opener`) or how rows are published (an
`Outlet`).
"""

from penstock.flight.actions import Actions, Opener
from penstock.flight.puts import Outlet
from penstock.flight.server import FlightServer

__all__ = ["Actions", "FlightServer", "Opener", "Outlet"]
