"""Subscription filters."""

from __future__ import annotations

import pyarrow as pa
import pytest
from tests.emulator.raw import SUBSCRIPTION, RawClient

from penstock.emulator.filters import parse_filter
from penstock.emulator.refusal import Refused

ROWS = [
    {"name": "com"},
    {"name": "net", "iana.org/language_tag": "en-US"},
    {"iana.org/language_tag": "de", "x": ""},
    {},
]
ATTRIBUTES = pa.array([list(row.items()) for row in ROWS], pa.map_(pa.string(), pa.string()))


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("attributes:name", [0, 1]),
        ('attributes:"iana.org/language_tag"', [1, 2]),
        ("attributes:x", [2]),
        ('attributes.name = "com"', [0]),
        ('attributes.name="com"', [0]),
        ('attributes.name != "com"', [1, 2, 3]),
        ('attributes.x = ""', [2]),
        ('hasPrefix(attributes.name, "co")', [0]),
        ('hasPrefix(attributes."iana.org/language_tag", "en")', [1]),
        ("NOT attributes:name", [2, 3]),
        ("-attributes:name", [2, 3]),
        ("NOT (attributes:name AND attributes:x)", [0, 1, 2, 3]),
        ('attributes:name AND attributes."iana.org/language_tag" = "en-US"', [1]),
        ("attributes:name OR attributes:x", [0, 1, 2]),
        ('(attributes:name OR attributes:x) AND NOT attributes.name = "com"', [1, 2]),
        ('attributes.name = "\\x63om"', [0]),
        ('attributes.name = "\\u0063om"', [0]),
        ('attributes.name = "\\143om"', [0]),
        ("  attributes : name  ", [0, 1]),
    ],
)
def test_a_filter_matches_what_the_documentation_says(text: str, matches: list[int]) -> None:
    assert [row for row, match in enumerate(parse_filter(text)(ATTRIBUTES)) if match] == matches


@pytest.mark.parametrize(
    "text",
    [
        "name",
        "attributes",
        "attributes:",
        "attributes.name",
        "attributes.name = com",
        'attributes.name > "com"',
        "attributes:a AND",
        "attributes:a attributes:b",
        "attributes:a AND attributes:b OR attributes:c",
        "(attributes:a",
        "attributes:a)",
        "hasPrefix(attributes.a)",
        'attributes.a = "open',
        'attributes.a = "\\q"',
        "attributes:" + "a" * 256,
    ],
)
def test_what_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        parse_filter(text)


async def test_only_matching_messages_are_delivered(client: RawClient) -> None:
    await client.create(filter='attributes.keep = "yes"')
    await client.publish(
        *({"data": b"%d" % number, "attributes": {"keep": "yes" if number % 3 == 0 else "no"}} for number in range(10))
    )
    await client.publish({"data": b"no", "attributes": {"keep": "no"}})
    await client.publish({"data": b"last", "attributes": {"keep": "yes"}})
    received = await client.pull(subscription=SUBSCRIPTION)
    assert [each.message.data for each in received] == [b"0", b"3", b"6", b"9", b"last"]
