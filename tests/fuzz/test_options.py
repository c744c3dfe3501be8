"""Whatever a user writes into an option of the Spark source: it is taken, or the error names the option."""

from __future__ import annotations

import math

import hypothesis.strategies as st
from hypothesis import given
from tests.fuzz.inputs import fuzzed

from penstock.errors import InvalidOption
from pyspark_pubsub.options import ELSEWHERE, KNOWN, Options

SOUND = {
    "projectId": "project",
    "subscriptionId": "orders",
    "topicId": "orders",
    "numPartitions": "4",
    "minRecordsPerTrigger": "1",
}
texts = (
    st.text(max_size=20)
    | st.integers().map(str)
    | st.floats().map(str)
    | st.from_regex(r"[0-9]{1,400}(\.[0-9]+)? ?(ms|s|m|h|k|g|tb)?", fullmatch=True)
    | st.sampled_from(
        [
            "",
            " ",
            "true",
            "FALSE",
            "data,data",
            "projects/project/subscriptions/s",
            "a:1,b:2",
            "dns:///x:1",
            "[::1]:8815",
        ]
    )
)
names = st.sampled_from([*KNOWN, *ELSEWHERE]) | st.sampled_from(KNOWN).map(str.upper) | st.text(max_size=20)


def test_the_sound_options_are_taken() -> None:
    assert parsed({}) == "projects/project/subscriptions/orders"


@fuzzed
@given(st.dictionaries(names, texts, min_size=1, max_size=4))
def test_any_option_is_taken_or_named_in_the_error(said: dict[str, str]) -> None:
    outcome = parsed(said)
    assert outcome.startswith("projects/") or any(name.lower() in outcome.lower() for name in said), outcome


def parsed(said: dict[str, str]) -> str:
    """The subscription, or the error's message."""
    try:
        options = Options.parse({**SOUND, **said})
    except InvalidOption as error:
        return error.message
    assert 1 <= options.slices <= 4096
    for limit in (options.max_rows, options.max_bytes, options.min_rows):
        assert limit is None or 1 <= limit < 1 << 63
    for seconds in (options.node_wait_s, options.available_now_idle_s, options.max_delay_s or 0.0):
        assert 0 <= seconds < math.inf
    return options.subscription
