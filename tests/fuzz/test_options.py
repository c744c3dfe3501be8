"""Whatever is written into Spark's options is understood, or refused in an error that names the option."""

from __future__ import annotations

import math
import pickle

import hypothesis.strategies as st
import pytest
from hypothesis import example, given
from tests.fuzz.examples import examples, texts

from penstock.contract import COLUMNS, MAX_SLICES
from penstock.contract.actions import CreateSubscription
from penstock.errors import InvalidOption
from pyspark_pubsub.options import ELSEWHERE, KNOWN, Options
from pyspark_pubsub.said import MAX_VALUE_LENGTH

VALID = {
    "subscriptionId": "projects/p/subscriptions/orders",
    "numPartitions": "2",
}
SENSIBLE = {
    "projectId": ["p", "other"],
    "subscriptionId": ["orders", "projects/p/subscriptions/orders"],
    "topicId": ["orders", "projects/q/topics/orders"],
    "ackDeadlineSeconds": ["10", "600", "9"],
    "daemons": ["localhost:1", "a:1,b:2", "dns:///x:1", "[::1]:8815", "grpc://h:1"],
    "columns": ["data", "data,message_id", ",".join(COLUMNS)],
}
written = (
    texts
    | st.sampled_from(["true", "FALSE", "10", "1_000", "0", "-1", "5m", "1.5h", "64m", "1TB", "10 s", "٣", "²", "1e9"])
    | st.integers().map(str)
    | st.integers(1, 400).map(lambda digits: "9" * digits)
    | st.integers(1, 400).map(lambda digits: "9" * digits + "h")
    | st.floats().map(str)
    | st.tuples(st.integers(0, 99), st.sampled_from(["ms", "s", "m", "h", "d", "k", "kib", "gb", "€"])).map(
        lambda parts: f"{parts[0]}{parts[1]}"
    )
)


def valued(name: str) -> st.SearchStrategy[tuple[str, str]]:
    """An option in any case, with a value."""
    cased = st.sampled_from([name, name.lower(), name.upper()])
    return st.tuples(cased, st.sampled_from(SENSIBLE.get(name, ["1"])) | written)


given_options = st.lists(
    st.sampled_from(KNOWN).flatmap(valued)
    | st.sampled_from(sorted(ELSEWHERE)).flatmap(valued)
    | st.tuples(texts, written),
    max_size=5,
).map(dict)


def parse(said: dict[str, str]) -> Options | InvalidOption:
    """What comes of them; nothing but these two may."""
    try:
        return Options.parse(said)
    except InvalidOption as error:
        return error


def check(options: Options | InvalidOption, *named: str) -> None:
    """Options that a daemon and a plan can use, or an error of ours that names one of these."""
    if isinstance(options, InvalidOption):
        assert any(ascii(name)[1:-1][:20].lower() in ascii(options.message).lower() for name in named), options.message
        assert len(options.message) < 3 * MAX_VALUE_LENGTH
        options.message.encode()
        return
    assert 1 <= options.slices <= MAX_SLICES
    assert 1 <= options.commit_ttl <= 1000
    assert all(limit is None or 1 <= limit < 2**63 for limit in (options.max_rows, options.max_bytes, options.min_rows))
    durations = (options.max_delay_s, options.node_wait_s, options.available_now_idle_s)
    assert all(duration is None or (math.isfinite(duration) and duration >= 0) for duration in durations)
    assert pickle.loads(pickle.dumps(options)) == options
    options.subscription.encode()
    assert options.daemons
    "".join(options.daemons).encode()
    if options.create is not None:
        assert CreateSubscription.from_json(options.create.to_json(), strict=True) == options.create


@examples(80)
@given(given_options)
@example({"nodeWait": "9" * 400})
@example({"topicId": "orders", "filter": "\ud800"})
@example({"subscriptionId": "x" * 100_000})
@example({"x" * 100_000: "1"})
@example({"filter": "x" * 100_000})
@example({"maxBytesPerTrigger": "9" * 15 + "t"})
@example({"daemons": "h" * 100_000})
@example({"columns": "x" * 100_000})
@example({"columns": "\ud800"})
def test_options_are_understood_or_refused_by_name(said: dict[str, str]) -> None:
    check(parse({**VALID, **said}), *said, *VALID)


@pytest.mark.parametrize("name", KNOWN)
@examples(8)
@given(data=st.data())
def test_every_option_takes_or_refuses_any_text(name: str, data: st.DataObject) -> None:
    extra = {"topicId": "orders"} if data.draw(st.booleans()) else {}
    check(parse({**VALID, **extra, name: data.draw(written)}), name)
