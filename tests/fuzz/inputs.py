"""What is thrown at the product: values of any kind, sound bodies and bytes, and both with something wrong in them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("PENSTOCK_FUZZ_EXAMPLES", "50"))
"""Of each test; `make fuzz EXAMPLES=3000` takes more time and finds more."""

T = TypeVar("T")

fuzzed: Callable[[T], T] = settings(
    max_examples=EXAMPLES,
    deadline=None,
    print_blob=True,
    # A server or a folder that all examples share is the point.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
"""A failure prints the decorator that replays it."""

edges = st.sampled_from(
    [-1, 0, 1, 2, 4096, 4097, 2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63) - 1, 0.5, 1e308]
)
scalars = st.none() | st.booleans() | edges | st.integers() | st.floats() | st.text(max_size=20)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def altered(draw: st.DrawFn, sound: dict[str, Any]) -> Any:
    """A body like `sound` with fields changed, taken away or added, at any depth."""
    body: Any = json.loads(json.dumps(sound))
    for _ in range(draw(st.integers(1, 3))):
        where: Any = body
        while isinstance(where, dict | list) and where and draw(st.booleans()):
            keys: list[Any] = sorted(where) if isinstance(where, dict) else list(range(len(where)))
            below = where[draw(st.sampled_from(keys))]
            if not isinstance(below, dict | list):
                break
            where = below
        if isinstance(where, dict):
            known = draw(st.booleans()) and bool(where)
            name = draw(st.sampled_from(sorted(where)) if known else st.text(max_size=8))
            if draw(st.booleans()):
                where[name] = draw(values)
            else:
                where.pop(name, None)
        elif isinstance(where, list):
            where.append(draw(values))
    return body


@st.composite
def damaged(draw: st.DrawFn, sound: bytes) -> bytes:
    """Sound bytes with some of them flipped, cut out, said twice, or put elsewhere."""
    raw = bytearray(sound)
    for _ in range(draw(st.integers(1, 3))):
        if not raw:
            break
        first = draw(st.integers(0, len(raw) - 1))
        last = draw(st.integers(first, min(first + 64, len(raw))))
        match draw(st.sampled_from(["flip", "cut", "twice", "end", "put"])):
            case "flip":
                raw[first] ^= draw(st.integers(1, 255))
            case "cut":
                del raw[first:last]
            case "twice":
                raw[last:last] = raw[first:last]
            case "end":
                del raw[first:]
            case "put":
                raw[first:first] = draw(st.binary(max_size=12))
    return bytes(raw)


@st.composite
def json_bytes(draw: st.DrawFn, sound: dict[str, Any]) -> bytes:
    """Something like a body: bytes, JSON of any kind, a body with wrong fields, or one with damaged bytes."""
    match draw(st.sampled_from(["bytes", "json", "altered", "altered", "altered", "damaged", "deep"])):
        case "bytes":
            return draw(st.binary(max_size=100))
        case "json":
            return json.dumps(draw(values)).encode()
        case "altered":
            return json.dumps(draw(altered(sound))).encode()
        case "damaged":
            return draw(damaged(json.dumps(sound).encode()))
        case _:
            return draw(st.sampled_from([b"[", b'{"v":', b'{"v":1,"consumer":'])) * draw(st.integers(1, 20_000))
