"""Options are checked when the query starts; each error names the option, its value and what is allowed."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
from pyspark.sql.types import IntegerType, StringType, StructField, StructType

from penstock.contract.actions import CreateSubscription
from penstock.errors import InvalidOption
from pyspark_pubsub import DefaultSource
from pyspark_pubsub.options import ELSEWHERE, KNOWN, Options, default_slices

NAMED = {"projectId": "p", "subscriptionId": "orders"}


def parse(**options: str) -> Options:
    return Options.parse({**NAMED, **options})


def test_defaults() -> None:
    options = parse()
    assert options.subscription == "projects/p/subscriptions/orders"
    assert options.daemons == ("localhost:8815",)
    assert options.exclude_lost
    assert (options.slices, options.node_wait_s, options.available_now_idle_s) == (default_slices(), 90.0, 5.0)
    assert (options.create, options.columns, options.share, options.commit_ttl) == (None, None, False, 5)


def test_values_as_people_write_them() -> None:
    options = parse(
        daemons="grpc://10.0.0.1:8815, node-2:8815, dns:///penstock.default.svc:8815",
        lostNodes="fail",
        numPartitions="7",
        maxRecordsPerTrigger="1000",
        maxBytesPerTrigger="64m",
        minRecordsPerTrigger="10",
        maxTriggerDelay="1500ms",
        nodeWait="2m",
        availableNowIdle="0.5s",
        shareSubscription="TRUE",
        columns="data, message_id",
        commitTtl="9",
    )
    assert options.daemons == ("10.0.0.1:8815", "node-2:8815", "dns:///penstock.default.svc:8815")
    assert (options.slices, options.max_rows, options.max_bytes, options.exclude_lost) == (7, 1000, 64 << 20, False)
    assert (options.min_rows, options.max_delay_s, options.node_wait_s) == (10, 1.5, 120.0)
    assert (options.available_now_idle_s, options.share, options.commit_ttl) == (0.5, True, 9)
    assert options.columns == ("data", "message_id")


def test_option_names_have_no_case() -> None:
    assert Options.parse({"PROJECTID": "p", "subscriptionid": "orders", "MaxRecordsPerTrigger": "5"}).max_rows == 5


def test_a_full_path_needs_no_project() -> None:
    path = "projects/q/subscriptions/orders"
    assert Options.parse({"subscriptionId": path}).subscription == path


def test_a_topic_says_how_to_create_the_subscription() -> None:
    options = parse(topicId="t-1", ackDeadlineSeconds="30", enableMessageOrdering="true", filter='attributes.a="b"')
    assert options.create == CreateSubscription(
        topic="projects/p/topics/t-1", ack_deadline_seconds=30, enable_message_ordering=True, filter='attributes.a="b"'
    )


def test_the_daemon_of_the_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_ENDPOINT", "node-7:9000")
    assert parse().daemons == ("node-7:9000",)
    assert parse(daemons="localhost:1").daemons == ("localhost:1",)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"maxRecordsPerTriger": "5"}, "option maxRecordsPerTriger is unknown; known are projectId"),
        ({"maxRecordsPerTrigger": "0"}, "maxRecordsPerTrigger='0': a whole number of at least 1"),
        ({"maxRecordsPerTrigger": "many"}, "maxRecordsPerTrigger='many'"),
        ({"maxBytesPerTrigger": "64q"}, "maxBytesPerTrigger='64q': a size of at least 1 byte, such as"),
        ({"numPartitions": "5000"}, "numPartitions='5000': a whole number of at least 1 and at most 4096"),
        ({"nodeWait": "soon"}, "nodeWait='soon': a duration such as"),
        ({"shareSubscription": "yes"}, "shareSubscription='yes': true or false"),
        ({"columns": "data,payload"}, "columns='data,payload': at least one of message_id"),
        ({"columns": "data,data"}, "each at most once"),
        ({"daemons": "dns:x:1"}, "write dns:///name:port"),
        ({"lostNodes": "ignore"}, "lostNodes='ignore': exclude .* or fail"),
        ({"daemons": "somewhere"}, "write host:port"),
        ({"daemons": ","}, "option daemons.*write host:port"),
        ({"projectId": ""}, "projectId='': a value, or leave the option out"),
        ({"subscriptionId": "1x"}, "subscriptionId.*projects/PROJECT/subscriptions/ID"),
        ({"subscriptionId": "projects/other/subscriptions/orders"}, "contradict each other: leave projectId out"),
        ({"ackDeadlineSeconds": "30"}, "ackDeadlineSeconds.*set topicId"),
        ({"topicId": "t-1", "ackDeadlineSeconds": "5"}, "ackDeadlineSeconds='5': from 10 to 600"),
        ({"topicId": "?"}, "option topicId"),
        (
            {"minRecordsPerTrigger": "9", "maxRecordsPerTrigger": "5"},
            "minRecordsPerTrigger=9 and maxRecordsPerTrigger=5",
        ),
        ({"maxTriggerDelay": "5s"}, "maxTriggerDelay.*minRecordsPerTrigger"),
        ({"path": "x"}, r"load\(\) takes no path"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(wrong: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        parse(**wrong)


def test_a_missing_subscription_or_project_is_named() -> None:
    with pytest.raises(InvalidOption, match="subscriptionId is missing"):
        Options.parse({})
    with pytest.raises(InvalidOption, match="projectId is missing"):
        Options.parse({"subscriptionId": "orders"})


@pytest.mark.parametrize("option", sorted(ELSEWHERE))
def test_an_option_of_another_connector_is_answered_with_ours(option: str) -> None:
    assert option not in KNOWN
    with pytest.raises(InvalidOption, match=f"option {option} is not taken here: "):
        parse(**{option.upper(): "x"})


def test_the_source_pickles_with_its_options() -> None:
    again = pickle.loads(pickle.dumps(DefaultSource({**NAMED, "columns": "data"})))
    assert again.schema().fieldNames() == ["data"]
    assert DefaultSource.name() == "pubsub"


def test_a_schema_that_differs_is_refused() -> None:
    source = DefaultSource({**NAMED, "columns": "message_id"})
    source.streamReader(schema=StructType([StructField("message_id", StringType())]))
    for wrong in ([StructField("message_id", IntegerType())], [StructField("id", StringType())], []):
        with pytest.raises(InvalidOption, match=r"leave \.schema\(\) out"):
            source.streamReader(schema=StructType(wrong))


def test_a_batch_read_is_answered_with_words() -> None:
    with pytest.raises(InvalidOption, match="availableNow=True"):
        DefaultSource(NAMED).reader(schema=StructType([]))


def test_the_import_is_light() -> None:
    code = (
        "import sys, pyspark.sql.datasource; before = set(sys.modules); import pyspark_pubsub; "
        "print(sorted(m for m in set(sys.modules) - before if not m.startswith('pyspark_pubsub')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
