"""Every received message is in exactly one place, and these are the places that are final."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from penstock.contract.actions import Accounting


@dataclass
class Ledger:
    """Messages by how they came and how they ended, of one subscription since the daemon started.

    At every instant, `received + recovered` is the sum of those that are held (buffered, in batches, as dead letters or
    as duplicates) and those that are settled, which is what `Accounting` says.

    A response that cannot be decoded has no messages that could be counted: they were never received here, nothing
    acknowledges them, and the service delivers them again. Such responses are counted apart, by the pull streams.

    `known` and `renewed` are deliveries that made no row: of what was committed, acknowledged once more, and of what is
    held, whose ack ID they renewed.

    `duplicates` repeated rows that were processed (`duplicates.Duplicates`), and were acknowledged like them.

    `recovered` were in batches that a store had when the daemon started.
    """

    received: int = 0
    recovered: int = 0
    acknowledged: int = 0
    acks_lost: int = 0
    released: int = 0
    lapsed: int = 0
    known: int = 0
    renewed: int = 0
    dead_lettered: int = 0
    duplicates: int = 0

    def accounting(
        self, *, buffered: int, in_batches: int, dead_letters_pending: int, duplicates_pending: int
    ) -> Accounting:
        """Where all messages are now, given those that are held."""
        places = {
            "buffered": buffered,
            "in_batches": in_batches,
            "dead_letters_pending": dead_letters_pending,
            "duplicates_pending": duplicates_pending,
            "acknowledged": self.acknowledged,
            "acks_lost": self.acks_lost,
            "released": self.released,
            "lapsed": self.lapsed,
            "known": self.known,
            "renewed": self.renewed,
            "dead_lettered": self.dead_lettered,
            "duplicates": self.duplicates,
        }
        return Accounting(
            received=self.received,
            recovered=self.recovered,
            places=places,
            unaccounted=self.received + self.recovered - sum(places.values()),
        )

    def figures(self) -> dict[str, int]:
        """For `status` and metrics."""
        return asdict(self)
