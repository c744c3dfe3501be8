"""One consumer of one subscription, and the numbers of the messages that it was given."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from benchmarks.topic import numbers

from penstock.client import NodeClient
from penstock.contract import PROTOCOL_VERSION as V
from penstock.contract import Reader, new_id
from penstock.contract.actions import (
    AliveRequest,
    BacklogRequest,
    CommitRequest,
    FinishedEpoch,
    OpenRequest,
    PlanRequest,
    SealReply,
    SealRequest,
)
from penstock.contract.body import Request
from penstock.errors import OpenAgain


class Seen:
    """How often each number of a topic was given to a consumer that finished with it."""

    def __init__(self) -> None:
        self.times = np.zeros(1 << 20, np.uint8)
        self.rows = 0

    def add(self, found: np.ndarray) -> None:
        """Numbers of one record batch."""
        if len(found) and (most := int(found.max())) >= len(self.times):
            self.times = np.concatenate([self.times, np.zeros(max(most, len(self.times)), np.uint8)])
        np.add.at(self.times, found.astype(np.int64), 1)
        self.rows += len(found)

    def lost(self, published: int) -> int:
        """Numbers below `published` that nobody was given."""
        return published - int(np.count_nonzero(self.times[:published]))

    @property
    def twice(self) -> int:
        """Rows beyond the first of each number."""
        return int(np.maximum(self.times.astype(np.int64) - 1, 0).sum())


class Holder:
    """A reader that opens again when it is told to. Each call is one action on the node, but for `finish`."""

    def __init__(self, endpoint: str, subscription: str) -> None:
        self.batch: SealReply | None = None
        self.opened = 0
        self._node = NodeClient(endpoint)
        self._subscription = subscription
        self._consumer = new_id()
        self._reader = Reader(time.time_ns() // 1_000_000, new_id())
        self._after = 0
        self._found: np.ndarray | None = None
        self._name = ""

    def open(self) -> None:
        """Take the consumer over, beside others of the subscription."""
        request = OpenRequest(
            v=V,
            consumer=self._consumer,
            reader=self._reader,
            subscription=self._subscription,
            after=self._after,
            share=True,
        )
        self._name = self._node.call("open", request).node
        self.opened += 1

    def alive(self) -> None:
        """The heartbeat."""
        self._ask("alive", lambda: AliveRequest(v=V, consumer=self._consumer, reader=self._reader))

    def wait_rows(self, wait_s: float) -> int:
        """Rows that wait unsealed."""
        found: int = self._ask(
            "backlog", lambda: BacklogRequest(v=V, consumer=self._consumer, reader=self._reader, wait_s=wait_s)
        ).rows
        return found

    def seal(self, max_rows: int | None = None) -> int:
        """The next epoch's batch; how many rows it has."""
        reply: SealReply = self._ask(
            "seal",
            lambda: SealRequest(
                v=V,
                consumer=self._consumer,
                reader=self._reader,
                epoch=self._after + 1,
                after=self._after,
                max_rows=max_rows,
            ),
        )
        self.batch = reply if reply.batch else None
        return reply.rows

    def finish(self, seen: Seen) -> None:
        """Read the batch and commit it: its acks go out in the background. May be repeated where it failed."""
        assert self.batch is not None
        assert self.batch.batch is not None
        name, epoch = self.batch.batch, self._after + 1
        if self._found is None:
            self._found = self._read(name, epoch)
        finished = FinishedEpoch(epoch=epoch, nodes={self._name: name})
        self._ask(
            "commit", lambda: CommitRequest(v=V, consumer=self._consumer, reader=self._reader, epochs=(finished,))
        )
        seen.add(self._found)
        self._after, self.batch, self._found = epoch, None, None

    def close(self) -> None:
        """Let the connection go."""
        self._node.close()

    def _read(self, batch: str, epoch: int) -> np.ndarray:
        plan = self._ask(
            "plan",
            lambda: PlanRequest(
                v=V, consumer=self._consumer, reader=self._reader, epoch=epoch, batch=batch, slices=2, columns=("data",)
            ),
        )
        parts = [rows.column("data") for part in plan.slices for rows in self._node.read(part.ticket)]
        return np.concatenate([numbers(part) for part in parts])

    def _ask(self, action: str, request: Callable[[], Request]) -> Any:
        try:
            return self._node.call(action, request())
        except OpenAgain:  # the daemon stood still
            self.open()
            return self._node.call(action, request())
