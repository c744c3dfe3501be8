"""Whatever is in a settings file: settings within their ranges, or an error that says what is wrong and where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from tests.fuzz.inputs import damaged, fuzzed, values

from penstock.errors import InvalidOption
from penstock.settings import Settings, load

_SOUND = b"""listen = "grpc://127.0.0.1:8815"
subscriptions = ["projects/p/subscriptions/*"]
drain_timeout_s = 20.0
[reservoir]
memory_limit_mb = 256
weights = { "projects/p/subscriptions/s" = 2.0 }
[pubsub]
max_streams = 4
jitter_ms = 500
[log]
format = "json"
"""
_rooms = st.sampled_from(sorted(Settings.model_fields))
_fields = st.sampled_from(["memory_limit_mb", "consumer_timeout_s", "max_streams", "weights", "level", "nonsense"])
_trees: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    _rooms, values | st.dictionaries(_fields, values, max_size=3)
)


def loaded(file: Path | None, tree: dict[str, Any]) -> str:
    """The settings as JSON, or the error's message."""
    try:
        return load(file, tree).model_dump_json()
    except InvalidOption as error:
        return error.message


@fuzzed
@given(st.binary(max_size=60) | damaged(_SOUND))
def test_any_file_is_read_or_named_in_the_error(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    file.write_bytes(raw)
    outcome = loaded(file, {})
    # What is wrong with several settings together names them, not where they are from.
    assert outcome.startswith(("{", "settings: ")) or str(file) in outcome, outcome


@fuzzed
@given(_trees)
def test_any_value_is_in_its_range_or_named_in_the_error(tree: dict[str, Any]) -> None:
    outcome = loaded(None, tree)
    assert outcome.startswith("{") or any(name in outcome for name in tree), outcome
