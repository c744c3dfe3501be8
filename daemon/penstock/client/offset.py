"""Where a consumer stands: what Spark keeps in its checkpoint (design.md, section 7)."""

from __future__ import annotations

import dataclasses
from typing import Any

from penstock.contract.actions import FinishedEpoch
from penstock.contract.body import Body
from penstock.errors import InvalidRequest, SubscriptionChanged

OFFSET_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class NamedBatch(Body):
    """A node's part of an epoch."""

    batch: str
    rows: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Offset(Body):
    """The end of epoch `epoch` (0: nothing read yet). `nodes`: node ID → the batch it sealed for the epoch.

    `excluded`: batch ID → epoch of those that plans before this epoch left out for good; None: there are none.
    """

    v: int
    consumer: str
    subscription: str
    epoch: int
    nodes: dict[str, NamedBatch]
    excluded: dict[str, int] | None = None

    @classmethod
    def initial(cls, consumer: str, subscription: str, epoch: int = 0) -> Offset:
        """The end of an epoch whose batches are not known: where a consumer begins, or goes on."""
        return cls(v=OFFSET_VERSION, consumer=consumer, subscription=subscription, epoch=epoch, nodes={})

    @classmethod
    def from_checkpoint(cls, said: Any, subscription: str) -> Offset:
        """Parse what Spark kept. Raises `SubscriptionChanged` when it is another subscription's, `InvalidRequest`."""
        if isinstance(said, dict) and said.get("v") != OFFSET_VERSION:
            raise InvalidRequest(
                f"the checkpoint's offset has version {said.get('v')!r}, this release reads {OFFSET_VERSION}: use the "
                "release of penstock that wrote it, or a new checkpoint"
            )
        offset = cls.from_plain(said)
        if offset.subscription != subscription:
            raise SubscriptionChanged(
                f"the checkpoint belongs to {offset.subscription}, the query reads {subscription}: use a new "
                "checkpointLocation for another subscription"
            )
        return offset

    def next(self, nodes: dict[str, NamedBatch], excluded: dict[str, int] | None = None) -> Offset:
        """The end of the epoch after this one."""
        return dataclasses.replace(self, epoch=self.epoch + 1, nodes=nodes, excluded=excluded)

    def finished(self) -> FinishedEpoch:
        """The epoch as a commit says it."""
        return FinishedEpoch(epoch=self.epoch, nodes={node: named.batch for node, named in self.nodes.items()})

    @property
    def rows(self) -> int:
        """Rows of the epoch on all nodes."""
        return sum(named.rows for named in self.nodes.values())
