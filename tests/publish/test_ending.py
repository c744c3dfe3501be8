"""A write that ends while its topic is being made leaves nothing behind: no bytes held, no topic in use."""

from __future__ import annotations

import asyncio
import random
from typing import Any, cast

import pyarrow as pa
import pytest

from penstock.clock import boottime
from penstock.contract import PROTOCOL_VERSION
from penstock.contract.publishing import PutRequest
from penstock.errors import Draining
from penstock.publish.flow import Flow
from penstock.publish.topics import Topic, Topics
from penstock.publish.write import Write

TOPIC = "projects/p/topics/orders"


class SlowTopics:
    """Takes its time to make a topic; `uses` counts who has it."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.made = asyncio.Event()
        self.uses = 0

    async def ready(self, _name: str, *, create: bool) -> Topic:
        assert create
        self.asked.set()
        await self.made.wait()
        self.uses += 1
        return cast("Topic", self)

    def leave(self, _topic: Topic) -> None:
        self.uses -= 1


async def _end_while_the_topic_is_made() -> tuple[int, int]:
    topics, flow = SlowTopics(), Flow(max_requests=1, max_bytes=1000)
    request = PutRequest(v=PROTOCOL_VERSION, create_topic=True)
    write = Write(request, topics=cast("Topics", topics), flow=flow, clock=boottime, rng=random.Random(1))
    rows: Any = pa.RecordBatch.from_pydict({"data": [b"x" * 100], "topic": [TOPIC]})
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(write.run())
        adding = tasks.create_task(_refused(write, rows))
        await topics.asked.wait()
        write.cancel(Draining("the daemon was shut down"))
        await running
        topics.made.set()
        await adding
    return flow.held_bytes, topics.uses


async def _refused(write: Write, rows: pa.RecordBatch) -> None:
    with pytest.raises(Draining, match="shut down"):
        await write.add(rows)


def test_a_write_that_ends_while_its_topic_is_made_holds_nothing() -> None:
    assert asyncio.run(_end_while_the_topic_is_made()) == (0, 0)
