"""One query over several daemons: each row once, read by tasks that claim their slices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession
from tests.client.daemon import Daemon
from tests.spark.running import Sink, reading, running, until


@pytest.fixture
def nodes() -> Iterator[tuple[Daemon, Daemon]]:
    with Daemon(site="a") as one, Daemon(site="b") as other:
        yield one, other


def both(nodes: tuple[Daemon, Daemon]) -> str:
    return ",".join(node.endpoint for node in nodes)


def opened(node: Daemon) -> bool:
    return "open" in node.calls


def test_rows_of_all_daemons_are_read_once_and_acknowledged_where_they_are(
    spark: SparkSession, nodes: tuple[Daemon, Daemon], checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_ENDPOINT", nodes[1].endpoint)
    sink = Sink()
    df = reading(spark, nodes[0], daemons=both(nodes), numPartitions="4", minRecordsPerTrigger="40")
    with running(df, checkpoint, sink) as query:
        until(lambda: all(map(opened, nodes)), query)
        nodes[1].sent = 1000
        sent = [message for node in nodes for message in node.publish(20)]
        until(lambda: sum(len(node.acknowledged()) for node in nodes) == 40, query)
        progress = query.lastProgress
    assert Counter(sink.rows()) == Counter(sent)
    assert [len(node.acknowledged()) for node in nodes] == [20, 20]
    assert progress is not None
    claims = {node.held.statistics()["claims"] for node in nodes}
    assert claims == {0, 4}, "one of them deals the slices"


def test_a_daemon_that_goes_and_comes_back_costs_the_query_nothing(
    spark: SparkSession, nodes: tuple[Daemon, Daemon], checkpoint: str
) -> None:
    sink = Sink()
    with running(reading(spark, nodes[0], daemons=both(nodes)), checkpoint, sink) as query:
        until(lambda: all(map(opened, nodes)), query)
        nodes[1].stop()
        sent = nodes[0].publish(10)
        until(lambda: len(nodes[0].acknowledged()) == 10, query)
        nodes[1].calls.clear()
        nodes[1].start()
        until(lambda: opened(nodes[1]), query)
        nodes[1].sent = 1000
        sent += nodes[1].publish(10)
        until(lambda: len(nodes[1].acknowledged()) == 10, query)
    assert Counter(sink.rows()) == Counter(sent)
