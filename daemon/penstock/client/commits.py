"""Epochs that Spark has finished and that a node has not confirmed yet."""

from __future__ import annotations

from penstock.contract import same_site
from penstock.contract.actions import CommitReply, CommitState, FinishedEpoch


class PendingCommits:
    """What one node is still to be told, or to confirm: at most `ttl` epochs, the latest ones."""

    def __init__(self, ttl: int) -> None:
        self._ttl = ttl
        self._pending: dict[int, FinishedEpoch] = {}
        self._last = 0

    def __len__(self) -> int:
        """Epochs pending."""
        return len(self._pending)

    def add(self, finished: FinishedEpoch) -> None:
        """Spark has finished an epoch; one that was added before is not pending again."""
        if finished.epoch <= self._last:
            return
        self._last = finished.epoch
        self._pending[finished.epoch] = finished
        # Forgotten after this: the next commit that reaches the node gives such batches back (design.md, section 8).
        self._pending = {epoch: kept for epoch, kept in self._pending.items() if epoch > finished.epoch - self._ttl}

    def settle(self, reply: CommitReply, node: str) -> int:
        """Drop what the node has done with; returns how many of its batches were gone (their rows come again)."""
        done = {epoch: state for epoch, state in reply.epochs.items() if state != CommitState.PENDING}
        gone = 0
        for epoch, state in done.items():
            finished = self._pending.pop(epoch, None)
            if finished is not None and state == CommitState.GONE:
                # It also says so of an epoch in which it had nothing; and for the daemon before it at its site.
                gone += any(same_site(named, node) for named in finished.nodes)
        return gone

    def epochs(self) -> tuple[FinishedEpoch, ...]:
        """In order."""
        return tuple(self._pending[epoch] for epoch in sorted(self._pending))
