"""The way out: rows of a `do_put` become PublishRequests, and each is confirmed, or the write fails and says why.

Arrow record batches and a `PutRequest` enter; encoded requests leave through `pubsub`, and counts with message IDs, or
one `PenstockError`, go back. Decisions are plain functions: what a row may be (`limits`), how rows are cut (`parcels`),
which request may go next (`line`), what a refusal means for the rest (`tally`). The room must not know gRPC, Flight or
the reservoir, and nothing in it runs once per message.
"""

from penstock.publish.outlet import Outlet

__all__ = ["Outlet"]
