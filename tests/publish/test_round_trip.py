"""What is written is what Google's own client reads, field by field, or the write is an error."""

from __future__ import annotations

import pyarrow as pa
import pytest
from tests.publish.site import TOPIC, Site, rows

from penstock.errors import PublishFailed

ATTRIBUTES = pa.map_(pa.string(), pa.string())


def test_every_field_comes_back_as_it_was_written(site: Site) -> None:
    site.topic()
    batch = pa.RecordBatch.from_pydict(
        {
            "data": pa.array([bytes(range(256)), b"", None, "é漢😀".encode(), b"\x00"], pa.binary()),
            "attributes": pa.array(
                [[], [("k", "")], [("ключ", "значение 😀")], [("a", None), ("b", "1")], None], ATTRIBUTES
            ),
            "ordering_key": pa.array([None, "", "ключ", None, None], pa.string()),
        }
    )
    reply = site.put(batch)
    assert (reply.rows, reply.messages, reply.skipped) == (5, 5, 0)
    got = sorted(
        ((bytes(one.data), dict(one.attributes), one.ordering_key) for one in site.read(5)),
        key=lambda one: (one[0], one[2]),
    )
    assert got == [
        (b"", {"k": ""}, ""),
        (b"", {"ключ": "значение 😀"}, "ключ"),
        (b"\x00", {}, ""),
        (bytes(range(256)), {}, ""),
        ("é漢😀".encode(), {"b": "1"}, ""),
    ]


def test_the_reply_names_the_first_and_the_last_message(site: Site) -> None:
    site.topic()
    reply = site.put(rows(2500), rows(10))
    assert reply.messages == 2510
    ids = sorted(int(message.message_id) for message in site.read(2510))
    assert reply.first_message_id is not None
    assert reply.last_message_id is not None
    assert {int(reply.first_message_id), int(reply.last_message_id)} <= set(ids)
    assert reply.requests >= 3


def test_a_topic_that_does_not_exist_fails_the_write_and_says_what_to_do(site: Site) -> None:
    with pytest.raises(PublishFailed, match=r"NOT_FOUND.*createTopic=true.*0 were confirmed") as caught:
        site.put(rows(10))
    assert caught.value.details["service_code"] == "NOT_FOUND"
    assert (caught.value.details["rows"], caught.value.details["published"]) == (10, 0)
    assert TOPIC in caught.value.message
