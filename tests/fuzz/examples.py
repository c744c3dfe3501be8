"""How many examples a test of this folder tries, and what mutates bytes and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings

LONG = "long"
"""The profile of `make fuzz`, whose number of examples stands for every test's own."""


def examples(count: int) -> settings:
    """Settings of one test: `count` examples in CI; a failure prints what replays it."""
    return settings(
        max_examples=settings().max_examples if settings.get_current_profile_name() == LONG else count,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


numbers = (
    st.integers(-3, 20)
    | st.sampled_from([2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63), 2**64, 10**19, 10**400, -(10**400)])
    | st.integers()
)
floats = st.floats() | st.sampled_from([1e308, float("inf"), float("-inf"), float("nan"), -0.0])
texts = (
    st.text(max_size=20)
    | st.sampled_from(["", "\0", "\n", "\ud800", "\udfff x", "é" * 300, "x" * 5000, "1", "true", "null", "{}", "a/b"])
    | st.text(st.characters(), max_size=20)
)
"""Lone surrogates too: JSON can escape them, UTF-8 cannot carry them."""

anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | numbers | floats | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
"""Any JSON value, and the constants that Python's parser takes besides."""


@st.composite
def mutated(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value with one to three changes: something left out, put in, or replaced at any depth."""
    for _ in range(draw(st.integers(1, 3))):
        value = _changed(draw, value)
    return value


def _changed(draw: st.DrawFn, value: Any) -> Any:
    if isinstance(value, dict) and value and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(value)))
        kind = draw(st.sampled_from(["descend", "descend", "drop", "add"]))
        if kind == "drop":
            return {name: item for name, item in value.items() if name != key}
        if kind == "add":
            return {**value, draw(texts): draw(anything)}
        return {**value, key: _changed(draw, value[key])}
    if isinstance(value, list) and value and draw(st.booleans()):
        at = draw(st.integers(0, len(value) - 1))
        kind = draw(st.sampled_from(["descend", "drop", "repeat"]))
        if kind == "descend":
            return [*value[:at], _changed(draw, value[at]), *value[at + 1 :]]
        return [*value[:at], *([] if kind == "drop" else [value[at]] * 3), *value[at + 1 :]]
    return draw(anything)


@st.composite
def spoiled(draw: st.DrawFn, raw: bytes) -> bytes:
    """Bytes with one to four changes: flipped, cut, put in, repeated, or a stretch of them lost."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw)))
        until = min(len(raw), at + draw(st.integers(0, 64)))
        put = draw(
            st.sampled_from([b"", raw[at:until] * 2, b"\xff" * 10, b"\x80" * 9 + b"\x01", b"\0"])
            | st.binary(max_size=12)
            | st.integers(0, 255).map(lambda one: bytes([one]))
        )
        raw = raw[:at] + put + raw[draw(st.sampled_from([at, until, min(at + 1, len(raw)), len(raw)])) :]
    return raw


def as_json(value: Any) -> bytes:
    """As a client could write it, escapes and all."""
    return json.dumps(value).encode()


def bodies(valid: Sequence[Any]) -> st.SearchStrategy[bytes]:
    """Valid JSON bodies, the same with changes as JSON and as bytes, any JSON, and any bytes."""
    chosen = st.sampled_from(valid)
    return st.one_of(
        chosen.map(as_json),
        chosen.flatmap(mutated).map(as_json),
        chosen.map(as_json).flatmap(spoiled),
        anything.map(as_json),
        st.binary(max_size=100),
        st.sampled_from([b"[" * 100_000, b'{"v":1,"a":' * 400 + b"1" + b"}" * 400, b'{"v":' + b"9" * 5000 + b"}"]),
    )
