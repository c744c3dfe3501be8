"""Random seals, commits and kills: what was answered holds after a restart, and nothing unread is acknowledged."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.storage.making import Host, Node

from penstock.contract import Reader
from penstock.errors import BatchGone

LIVES = 12
STEPS = 8


class Query:
    """Spark's side: an offset log and a commit log that outlive every daemon, and what its finished epochs read."""

    def __init__(self, host: Host, rng: random.Random) -> None:
        self.host = host
        self.rng = rng
        self.generation = 0
        self.reader: Reader
        self.epoch = 0
        self.offset: str | None = None
        self.contents: dict[str, list[list[str]]] = {}
        self.read: set[str] = set()
        self.was_gone = 0

    def open(self, node: Node) -> None:
        self.generation += 1
        self.reader = node.open(self.generation, after=self.epoch)

    async def run_epoch(self, node: Node) -> None:
        """Seal, unless that was answered before; read; finish. Any of it may be cut short by the end of the process."""
        if self.offset is None:
            node.deliver(self.rng.randint(1, 30), keys=("red", "green", None))
            batch = node.seal(self.reader, self.epoch + 1, max_rows=self.rng.choice([None, 5, 50]))
            if self.rng.random() < 0.3:
                return  # killed before it was answered
            await node.reservoir.durable()
            self.offset = batch
        if self.offset is None:
            return
        try:
            slices = node.slices(self.reader, self.epoch + 1, self.offset, 3)
        except BatchGone:
            self.was_gone += 1
        else:
            assert self.contents.setdefault(self.offset, slices) == slices, "a batch never changes"
            self.read.update(text for one in slices for text in one)
        if self.rng.random() < 0.3:
            return  # killed before Spark had finished
        node.commit(self.reader, self.epoch + 1, self.offset)
        if self.rng.random() < 0.7:
            await node.reservoir.durable()
        self.epoch, self.offset = self.epoch + 1, None


@pytest.mark.parametrize("seed", range(12))
async def test_what_was_answered_holds_whenever_the_daemon_is_killed(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    host = Host(tmp_path / "data", ordered=seed % 2 == 0)
    query = Query(host, rng)
    for _ in range(LIVES):
        host.acks.at_once = rng.random() < 0.5
        host.acks.pending.clear()
        async with host.process() as node:
            query.open(node)
            for _ in range(rng.randint(1, STEPS)):
                await query.run_epoch(node)
                node.reservoir.tick()
                assert node.subscription.unaccounted() == 0
                if rng.random() < 0.3:
                    break
    host.acks.at_once = True
    async with host.process() as node:
        query.open(node)
        await query.run_epoch(node)
        await node.reservoir.durable()
        assert node.subscription.unaccounted() == 0
        node.subscription.close(node.subscription.consumers["consumer-1"])
        await node.reservoir.durable()
        assert not node.subscription.batches
    assert query.was_gone == 0, "what was answered is there until it is acknowledged"
    assert {"m" + ack_id[1:] for ack_id in host.acks.acknowledged} <= query.read
    async with host.process() as node:
        assert not node.subscription.batches
        assert not list((host.path / "segments").iterdir())
