"""A real daemon process for benchmarks, and a driver that seals and commits as Spark's does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.children import Child, Children, free_port
from penstock.client import NodeClient
from penstock.contract import PROTOCOL_VERSION as V
from penstock.contract import Reader, new_id
from penstock.contract.actions import (
    AliveRequest,
    BacklogRequest,
    CommitRequest,
    FinishedEpoch,
    OpenRequest,
    PlannedSlice,
    PlanRequest,
    SealReply,
    SealRequest,
    StatusRequest,
)
from penstock.errors import OpenAgain


@contextmanager
def daemon(owned: Children, pubsub_port: int, subscription: str, *more: str) -> Iterator[tuple[Child, str]]:
    """`penstock serve` against a Pub/Sub on `pubsub_port`, with default settings but for `more` flags.

    Gives the process and its Flight address.
    """
    port = free_port()
    address = f"127.0.0.1:{port}"
    arguments = ["penstock", "serve", "--listen", f"grpc://{address}", "--http", "127.0.0.1:0"]
    arguments += ["--subscription", subscription, "--drain-timeout-s", "0", "--log-level", "warning", *more]
    with owned.running("daemon", *arguments, PUBSUB_EMULATOR_HOST=f"127.0.0.1:{pubsub_port}") as process:
        process.wait_listening(port)
        yield process, address


class Driver:
    """One reader of one consumer on one node. Each call is one action; nothing is retried."""

    def __init__(self, node: NodeClient, subscription: str) -> None:
        self.epoch = 0
        self.node = node
        self._subscription = subscription
        self._consumer = new_id()
        self._reader = Reader(time.time_ns() // 1_000_000, new_id())
        self._sealed: SealReply | None = None
        self._name = ""

    def open(self) -> None:
        """Take the consumer over: pulling starts."""
        request = OpenRequest(
            v=V, consumer=self._consumer, reader=self._reader, subscription=self._subscription, after=self.epoch
        )
        self._name = self.node.call("open", request).node

    def alive(self) -> None:
        """The cheapest action there is."""
        self.node.call("alive", AliveRequest(v=V, consumer=self._consumer, reader=self._reader))

    def wait_rows(self, wait_s: float) -> int:
        """Rows that wait unsealed, after waiting for some."""
        request = BacklogRequest(v=V, consumer=self._consumer, reader=self._reader, wait_s=wait_s)
        rows: int = self.node.call("backlog", request).rows
        return rows

    def seal(self, *, max_rows: int | None = None) -> SealReply:
        """The next epoch's batch; one without rows leaves the epoch where it is.

        A daemon that stood still for some seconds, as on a machine with too much to do, is opened again.
        """
        request = SealRequest(
            v=V, consumer=self._consumer, reader=self._reader, epoch=self.epoch + 1, after=self.epoch, max_rows=max_rows
        )
        try:
            reply: SealReply = self.node.call("seal", request)
        except OpenAgain:
            self.open()
            reply = self.node.call("seal", request)
        if reply.batch is not None:
            self.epoch += 1
            self._sealed = reply
        return reply

    def plan(self, slices: int = 1) -> tuple[PlannedSlice, ...]:
        """The tickets of the batch sealed last."""
        assert self._sealed is not None and self._sealed.batch is not None
        request = PlanRequest(
            v=V, consumer=self._consumer, reader=self._reader, epoch=self.epoch, batch=self._sealed.batch, slices=slices
        )
        planned: tuple[PlannedSlice, ...] = self.node.call("plan", request).slices
        return planned

    def commit(self) -> None:
        """The batch sealed last is processed. Its acks go out in the background."""
        assert self._sealed is not None and self._sealed.batch is not None
        finished = FinishedEpoch(epoch=self.epoch, nodes={self._name: self._sealed.batch})
        self.node.call("commit", CommitRequest(v=V, consumer=self._consumer, reader=self._reader, epochs=(finished,)))

    def figures(self) -> dict[str, object]:
        """The subscription's part of `status`."""
        found: dict[str, object] = self.node.call("status", StatusRequest(v=V)).subscriptions[self._subscription]
        return found
