"""Every received message is in exactly one place, and these are the places that are final."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass
class Ledger:
    """Messages by how they ended, of one subscription since the daemon started.

    ``received + recovered == buffered + in_batches + acknowledged + acks_lost + released + lapsed + known`` at every
    instant; `in_batches` includes committed ones whose acks are not confirmed yet. `recovered` were in
    batches that a store had when the daemon started.
    """

    received: int = 0
    recovered: int = 0
    acknowledged: int = 0
    acks_lost: int = 0
    released: int = 0
    lapsed: int = 0
    known: int = 0

    def settled(self) -> int:
        """All that is out of the reservoir."""
        return self.acknowledged + self.acks_lost + self.released + self.lapsed + self.known

    def figures(self) -> dict[str, int]:
        """For `status` and metrics."""
        return asdict(self)
