"""What a body does not say as it should is named: the field, where it is, what is needed, what came instead."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.contract import PROTOCOL_VERSION
from penstock.contract.actions import CommitRequest, PlanReply, SealRequest
from penstock.contract.names import Reader
from penstock.errors import InvalidRequest, ProtocolMismatch

SEAL = {"v": PROTOCOL_VERSION, "consumer": "c", "reader": [3, "r"], "epoch": 1, "after": 0}


def read(**change: Any) -> SealRequest:
    return SealRequest.read(json.dumps({**SEAL, **change}).encode(), PROTOCOL_VERSION)


def test_a_body_comes_back_as_it_was() -> None:
    request = SealRequest(v=PROTOCOL_VERSION, consumer="ü", reader=Reader(3, "r"), epoch=5, after=4, max_rows=7)
    assert SealRequest.read(request.to_json(), PROTOCOL_VERSION) == request


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reader": 3}, r"SealRequest\.reader: a list is needed, not 3"),
        ({"reader": [3]}, r"SealRequest\.reader: \[generation, uuid\] is needed, not \[3\]"),
        ({"reader": [3, 4]}, r"SealRequest\.reader: a string is needed, not 4"),
        ({"epoch": "x"}, r"SealRequest\.epoch: an integer is needed, not 'x'"),
        ({"epoch": True}, r"SealRequest\.epoch: an integer is needed, not True"),
        ({"epoch": None}, r"SealRequest\.epoch: an integer is needed, not None"),
        ({"max_rows": 1 << 70}, r"SealRequest\.max_rows: an integer of 64 bits is needed"),
        ({"consumer": "\ud800"}, r"SealRequest\.consumer: .* is not valid Unicode"),
        ({"epoc": 1}, r"SealRequest: unknown field 'epoc'; known are v, consumer, reader"),
    ],
)
def test_a_field_that_does_not_fit_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        read(**change)


@pytest.mark.parametrize(
    ("epochs", "words"),
    [
        ({}, r"CommitRequest\.epochs: a list is needed, not \{\}"),
        ([{"epoch": 1, "nodes": {}}, 7], r"CommitRequest\.epochs\[1\]: an object is needed, not 7"),
        ([{"epoch": 1, "nodes": {"n": 2}}], r"CommitRequest\.epochs\[0\]\.nodes\.'n': a string is needed, not 2"),
        ([{"epoch": 1, "nodes": {}}] * 10_001, r"CommitRequest\.epochs: at most 10000 items are allowed, not 10001"),
    ],
)
def test_a_value_within_others_is_named_by_where_it_is(epochs: Any, words: str) -> None:
    said = {"v": PROTOCOL_VERSION, "consumer": "c", "reader": [3, "r"], "epochs": epochs}
    with pytest.raises(InvalidRequest, match=words):
        CommitRequest.read(json.dumps(said).encode(), PROTOCOL_VERSION)


def test_a_field_that_is_missing_is_named() -> None:
    with pytest.raises(InvalidRequest, match="SealRequest: field 'consumer' is missing"):
        SealRequest.read(json.dumps({"v": PROTOCOL_VERSION}).encode(), PROTOCOL_VERSION)
    with pytest.raises(InvalidRequest, match="SealRequest: an object is needed, not 7"):
        SealRequest.from_json(b"7")
    with pytest.raises(InvalidRequest, match="SealRequest: not JSON"):
        SealRequest.from_json(b"{")


def test_another_version_is_told_before_all_else() -> None:
    with pytest.raises(ProtocolMismatch, match=f"speaks protocol version {PROTOCOL_VERSION}, the caller 99"):
        SealRequest.read(b'{"v": 99, "what": "ever"}', PROTOCOL_VERSION)


def test_a_newer_peer_may_say_more() -> None:
    said = json.loads(PlanReply(slices=()).to_json()) | {"news": 1}
    assert PlanReply.from_plain(said) == PlanReply(slices=())
