"""Whatever is in a settings file or among the flags makes settings, or an error of ours that can be printed."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import example, given
from tests.fuzz.examples import examples, spoiled, texts

from penstock.cli.flags import overrides
from penstock.errors import InvalidOption
from penstock.settings import Settings, as_toml, load

ROOMS = ("pubsub", "reservoir", "log")
KEYS = [
    *(name for name in Settings.model_fields if name not in ROOMS),
    *(f"{room}.{name}" for room in ROOMS for name in type(getattr(Settings(), room)).model_fields),
]
WRITTEN = as_toml().encode()

plain = (
    texts
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.sampled_from(
        [
            "10",
            "-1",
            "true",
            "1e400",
            "grpc://127.0.0.1:99999",
            "grpc://[::1]:1",
            "grpc+tcp://localhost:٣",
            "127.0.0.1:²",
            ":",
        ]
    )
)
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=5
)
trees: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.sampled_from([*Settings.model_fields, "typo"]) | texts,
    values | st.dictionaries(st.sampled_from([key.rpartition(".")[2] for key in KEYS]) | texts, values, max_size=3),
    max_size=4,
)
assignments = st.builds(
    "{}{}{}".format,
    st.sampled_from([*KEYS, *ROOMS, "pubsub.x", "listen.x", ".", "", "a.b.c.d"]) | texts,
    st.sampled_from(["=", "=", "=", "", "=="]),
    plain,
)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in list(os.environ):
        if variable.upper().startswith("PENSTOCK"):
            monkeypatch.delenv(variable)


def loaded(file: Path | None, tree: dict[str, Any]) -> Settings | InvalidOption:
    """What comes of them; nothing but these two may."""
    try:
        return load(file, tree)
    except InvalidOption as error:
        return error


def check(settings: Settings | InvalidOption) -> None:
    """Settings whose durations and sizes a daemon can compute with, or an error of a bearable length."""
    if isinstance(settings, InvalidOption):
        assert 0 < len(settings.message) < 20_000
        return
    rooms = [settings, settings.pubsub, settings.reservoir]
    numbers = [value for room in rooms for value in dict(room).values() if isinstance(value, float | int)]
    assert all(math.isfinite(number) for number in [*numbers, *settings.reservoir.weights.values()])


@examples(50)
@given(
    raw=st.binary(max_size=60)
    | spoiled(WRITTEN)
    | spoiled(b'listen = "grpc://127.0.0.1:0"\n[pubsub]\nmin_streams = 2\n')
)
@example(raw=b"a=" + b"[" * 20_000)
@example(raw=b"drain_timeout_s = " + b"9" * 5000)
@example(raw=b'[reservoir.weights]\n"projects/p/subscriptions/a" = nan')
@example(raw=b"reservoir.max_lease_s = inf\nreservoir.consumer_timeout_s = nan")
@example(raw=b'http = "127.0.0.1:\xc2\xb2"')
def test_a_file_is_read_or_refused(tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / "penstock.toml"
    file.write_bytes(raw)
    check(loaded(file, {}))


@examples(50)
@given(tree=trees)
def test_a_tree_of_settings_is_taken_or_refused(tree: dict[str, Any]) -> None:
    check(loaded(None, tree))


@examples(50)
@given(said=st.lists(assignments, max_size=3))
def test_assignments_on_the_command_line_are_taken_or_refused(said: list[str]) -> None:
    try:
        tree = overrides({}, said)
    except InvalidOption as error:
        told = error.message
    else:
        told = "--set"
        check(loaded(None, tree))
    assert "--set" in told
