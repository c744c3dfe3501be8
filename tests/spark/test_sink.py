"""Spark's batch and streaming writes, on a real Spark through a real daemon: what says success is published."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f
from pyspark.sql.types import BinaryType, StructField, StructType
from tests.processes import until
from tests.publish.site import TOPIC, Site, rows
from tests.publish.site import daemon as publishing_daemon

from penstock.contract.publishing import TRACE_KEYS
from penstock.errors import ServiceUnavailable
from pyspark_pubsub.writer import PubSubWriter, Written, plan_write


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with publishing_daemon(monkeypatch) as site:
        yield site


def options(site: Site, **more: str) -> dict[str, str]:
    return {"topicId": TOPIC, "daemons": site.node.endpoint, "nodeWait": "2s", **more}


def numbered(spark: SparkSession, count: int, partitions: int = 3) -> DataFrame:
    return spark.range(0, count, 1, partitions).select(f.col("id").cast("string").alias("data"))


def test_a_batch_write_publishes_each_row_once(spark: SparkSession, site: Site) -> None:
    site.topic()
    numbered(spark, 25_000).write.format("pubsub").options(**options(site)).mode("append").save()
    assert sorted(int(message.data) for message in site.read(25_000)) == list(range(25_000))


def test_every_column_arrives(spark: SparkSession, site: Site) -> None:
    site.topic()
    df = spark.createDataFrame(
        [(bytearray(b"\x00\xff"), {"ключ": "é", "none": None}, "key"), (bytearray(b"x"), None, None)],
        "payload binary, attributes map<string,string>, ordering_key string",
    )
    df.write.format("pubsub").options(**options(site)).mode("append").save()
    got = sorted((bytes(one.data), dict(one.attributes), one.ordering_key) for one in site.read(2))
    assert got == [(b"\x00\xff", {"ключ": "é"}, "key"), (b"x", {}, "")]


def test_attributes_may_be_json_and_a_topic_column_stands_above_the_option(spark: SparkSession, site: Site) -> None:
    site.topic()
    other = site.topic("projects/p/topics/other")
    df = spark.createDataFrame(
        [("1", '{"a": "x\\"y"}', "other"), ("2", None, None)], "data string, attributes string, topic string"
    )
    df.write.format("pubsub").options(**options(site, projectId="p")).mode("append").save()
    (one,) = site.read(1, other)
    assert (one.data, dict(one.attributes)) == (b"1", {"a": 'x"y'})
    assert [message.data for message in site.read(1)] == [b"2"]


def test_format_json_makes_the_payload_that_to_json_makes(spark: SparkSession, site: Site) -> None:
    site.topic()
    df = spark.range(100).select(
        "id",
        f.concat(f.lit('a"b\\\né'), f.col("id").cast("string")).alias("text"),
        f.when(f.col("id") % 2 == 0, f.col("id") / 4).alias("number"),
        f.array(f.lit(1), f.lit(None)).alias("list"),
        f.struct(f.lit("x").alias("in"), f.lit(None).cast("int").alias("none")).alias("nested"),
        f.create_map(f.lit("k"), f.col("id")).alias("map"),
        f.lit("2020-01-02").cast("date").alias("day"),
        f.lit("k").alias("ordering_key"),
    )
    payload = df.drop("ordering_key")
    expected = sorted((row.j for row in payload.select(f.to_json(f.struct("*")).alias("j")).collect()), key=str)
    df.write.format("pubsub").options(**options(site, format="json")).mode("append").save()
    got = sorted((message.data.decode() for message in site.read(100)), key=str)
    assert [json.loads(text) for text in got] == [json.loads(text) for text in expected]


def test_a_stream_is_published_whole_and_each_row_is_named(
    spark: SparkSession, site: Site, checkpoint: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    site.topic()
    folder = str(tmp_path_factory.mktemp("rows"))
    numbered(spark, 3000).write.mode("overwrite").parquet(folder)
    stream = spark.readStream.schema("data string").parquet(folder)
    chosen = options(site, tracing="true")
    writer = stream.writeStream.format("pubsub").options(**chosen).option("checkpointLocation", checkpoint)
    query = writer.trigger(availableNow=True).start()
    query.awaitTermination()
    got = site.read(3000)
    assert sorted(int(message.data) for message in got) == list(range(3000))
    names = Counter(tuple(message.attributes[key] for key in TRACE_KEYS) for message in got)
    assert set(names.values()) == {1}
    assert {(name[0], name[1]) for name in names} == {(query.id, "0")}


def test_a_task_fails_when_a_row_cannot_be_published(spark: SparkSession, site: Site) -> None:
    with pytest.raises(PySparkException, match=r"PUBLISH_FAILED.*NOT_FOUND.*createTopic=true"):
        numbered(spark, 10).write.format("pubsub").options(**options(site)).mode("append").save()


def test_rows_of_a_failed_task_come_again_and_none_is_missing(spark: SparkSession, site: Site) -> None:
    site.topic()
    site.fail("PERMISSION_DENIED", 1)
    numbered(spark, 5000, 2).write.format("pubsub").options(**options(site)).mode("append").save()
    assert site.published() >= 5000


@pytest.mark.parametrize(
    ("given", "column", "words"),
    [
        ({"topicid": "t"}, "data", "option projectId is missing: topicId='t'"),
        ({"topicId": ""}, "data", "option topicId=''"),
        ({"topic": TOPIC}, "data", "option topic is not taken here: name it with topicId"),
        ({"flushTimeout": "0s"}, "data", "option flushTimeout='0s': more than 0"),
        ({"retryTimeout": "25h"}, "data", "option retryTimeout='25h': more than 0 and at most 24h"),
        ({"onInvalid": "drop"}, "data", "option onInvalid='drop': one of fail, skip, deadletter"),
        ({"onInvalid": "deadletter"}, "data", "onInvalid=deadletter and deadLetterTopic go together"),
        ({"compression": "zip"}, "data", "option compression='zip': gzip or none"),
        ({"repartition": "true"}, "data", "pyspark_pubsub.by_ordering_key(df)"),
        ({"clientEmail": "x"}, "data", "credentials belong to the daemon"),
        ({"nonsense": "x"}, "data", "option nonsense is unknown; known are projectId, topicId"),
        ({"format": "avro"}, "data", "option format='avro': json"),
        ({}, "body", r"column 'body' (string) is none of data, payload, attributes, ordering_key, topic"),
    ],
)
def test_what_cannot_work_is_refused_before_any_task(
    spark: SparkSession, site: Site, given: dict[str, str], column: str, words: str
) -> None:
    df = numbered(spark, 1).withColumnRenamed("data", column)
    chosen = {**options(site), **given}
    if "topicid" in given:
        del chosen["topicId"]
    with pytest.raises(PySparkException, match=re.escape(words)):
        df.write.format("pubsub").options(**chosen).mode("append").save()


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("select 1 a, cast('x' as binary) b", "column 'b' is binary, which JSON has no form for"),
        ("select map(named_struct('a', 1), 2) m", "column 'm.key' is struct"),
        ("select interval '1' year i", "YearMonthIntervalType"),
    ],
)
def test_columns_that_json_has_no_form_for_are_refused_before_any_task(
    spark: SparkSession, site: Site, sql: str, words: str
) -> None:
    writer = spark.sql(sql).where("false").write.format("pubsub").options(**options(site, format="json"))
    with pytest.raises(PySparkException, match=re.escape(words)):
        writer.mode("append").save()


def test_text_of_any_collation_is_text(spark: SparkSession, site: Site) -> None:
    site.topic()
    df = spark.sql("select 'é' collate UNICODE_CI data, map('a' collate UTF8_LCASE, 'b') attributes")
    df.write.format("pubsub").options(**options(site)).mode("append").save()
    (message,) = site.read(1)
    assert (message.data.decode(), dict(message.attributes)) == ("é", {"a": "b"})


@pytest.mark.parametrize(("mode", "words"), [("overwrite", r'use \.mode\("append"\)'), ("error", "(?i)save.?mode")])
def test_save_modes_other_than_append_are_refused(spark: SparkSession, site: Site, mode: str, words: str) -> None:
    with pytest.raises(PySparkException, match=words):
        numbered(spark, 1).write.format("pubsub").options(**options(site)).mode(mode).save()


def test_a_daemon_that_does_not_answer_fails_the_write_after_node_wait(spark: SparkSession, site: Site) -> None:
    chosen = options(site, daemons="127.0.0.1:1", nodeWait="300ms")
    with pytest.raises(PySparkException, match=r"NODE_UNREACHABLE.*waited 0\.3 s, option nodeWait"):
        numbered(spark, 1, 1).write.format("pubsub").options(**chosen).mode("append").save()


def test_a_task_that_is_run_again_goes_to_another_daemon(spark: SparkSession, site: Site) -> None:
    site.topic()
    chosen = options(site, daemons=f"127.0.0.1:1,{site.node.endpoint}", nodeWait="300ms")
    numbered(spark, 100, 2).write.format("pubsub").options(**chosen).mode("append").save()
    assert site.published() == 100


def test_a_task_waits_while_the_daemon_has_as_many_writes_as_it_takes(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.topic()
    monkeypatch.setattr("pyspark_pubsub.writer.MAX_PUTS", 1)
    schema = StructType([StructField("data", BinaryType())])
    started, going_on = threading.Event(), threading.Event()

    def slow() -> Iterator[pa.RecordBatch]:
        yield rows(1)
        yield rows(1)  # it was asked for when the first one had been sent
        started.set()
        going_on.wait(30)

    def task(batches: Iterator[pa.RecordBatch], wait: str) -> Written:
        plan = plan_write(options(site, nodeWait=wait), schema, overwrite=False, streaming=False)
        return PubSubWriter(plan).write(batches)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(task, slow(), "2s")
        assert started.wait(10)
        until(lambda: len(site.outlet) == 1)
        with pytest.raises(ServiceUnavailable, match=r"has 1 writes already.*waited 0\.2 s, option nodeWait"):
            task(iter([rows(1)]), "200ms")
        second = pool.submit(task, iter([rows(3)]), "20s")
        going_on.set()
        assert (first.result(20).messages, second.result(20).messages) == (2, 3)
