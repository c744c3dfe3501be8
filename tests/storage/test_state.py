"""Any prefix of the journal is a state that the node once was in, and so is what a rewritten one adds up to."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from penstock.contract import Reader
from penstock.reservoir.decisions import (
    BatchCommitted,
    BatchEnded,
    BatchSealed,
    ConsumerEvicted,
    ConsumerHeard,
    ConsumerNoted,
    Decision,
    Piece,
    SubscriptionDropped,
    SubscriptionHeld,
)
from penstock.reservoir.kept import Kept, Place
from penstock.storage.records import Decoder, encode
from penstock.storage.state import State

SUBSCRIPTIONS = st.sampled_from(["projects/p/subscriptions/one", "projects/p/subscriptions/two"])
CONSUMERS = st.sampled_from(["c1", "c2", "c3"])
EPOCHS = st.integers(1, 20)
BATCHES = st.sampled_from(["b1", "b2", "b3", "b4"])
KEPT = [Kept(counts=False, place=Place(1, 64 * n, 50, 7 * n, bucketed=n % 2 == 0)) for n in range(4)]
PIECES = st.builds(Piece, st.sampled_from(KEPT), st.integers(0, 9), st.integers(1, 9))
READERS = st.builds(Reader, st.integers(1, 9), st.sampled_from(["r1", "r2"]))

DECISIONS: st.SearchStrategy[Decision] = st.one_of(
    st.builds(SubscriptionHeld, SUBSCRIPTIONS, st.sampled_from([None, True]), st.sampled_from([None, False])),
    st.builds(SubscriptionDropped, SUBSCRIPTIONS),
    st.builds(
        ConsumerNoted,
        *(SUBSCRIPTIONS, CONSUMERS, READERS, st.booleans(), st.booleans(), st.booleans(), st.booleans(), EPOCHS),
        st.dictionaries(BATCHES, EPOCHS, max_size=2),
        st.floats(0, 2e9),
    ),
    st.builds(ConsumerHeard, SUBSCRIPTIONS, CONSUMERS, st.floats(0, 2e9)),
    st.builds(ConsumerEvicted, SUBSCRIPTIONS, CONSUMERS, READERS, EPOCHS, st.booleans()),
    st.builds(
        BatchSealed, SUBSCRIPTIONS, CONSUMERS, EPOCHS, BATCHES, st.lists(PIECES, min_size=1, max_size=3).map(tuple)
    ),
    st.builds(BatchCommitted, SUBSCRIPTIONS, CONSUMERS, EPOCHS, BATCHES),
    st.builds(BatchEnded, SUBSCRIPTIONS, CONSUMERS, EPOCHS, BATCHES, st.text(max_size=5)),
)


def shown(state: State) -> list[Any]:
    """Everything in a state, as its own decisions say it."""
    return [encode(decision) for decision in state.decisions()]


def through_json(decisions: list[Decision]) -> list[Decision]:
    decoder = Decoder(counts=False)
    return [decoder.decode(json.loads(json.dumps(encode(decision)))) for decision in decisions]


@given(decisions=st.lists(DECISIONS, max_size=60))
@settings(deadline=None, max_examples=150)
def test_any_prefix_replayed_is_what_the_node_was_then(decisions: list[Decision]) -> None:
    live = State()
    moments = [shown(live)]
    for decision in decisions:
        live.apply(decision)
        moments.append(shown(live))
    again = State()
    for moment, decision in zip(moments[1:], through_json(decisions), strict=True):
        again.apply(decision)
        assert shown(again) == moment


@given(decisions=st.lists(DECISIONS, max_size=60), later=st.lists(DECISIONS, max_size=20))
@settings(deadline=None, max_examples=150)
def test_a_rewritten_journal_goes_on_like_the_one_it_replaced(decisions: list[Decision], later: list[Decision]) -> None:
    live = State()
    for decision in decisions:
        live.apply(decision)
    rewritten = State()
    for decision in through_json(list(live.decisions())):
        rewritten.apply(decision)
    assert shown(rewritten) == shown(live)
    for decision in copy.copy(later):
        live.apply(decision)
        rewritten.apply(decision)
    assert shown(rewritten) == shown(live)


def test_pieces_of_one_chunk_share_its_copy() -> None:
    sealed = BatchSealed("s", "c", 1, "b", (Piece(KEPT[0], 0, 3), Piece(KEPT[0], 3, 2), Piece(KEPT[1], 0, 1)))
    (again,) = through_json([sealed])
    assert isinstance(again, BatchSealed)
    first, second, third = (piece.kept for piece in again.pieces)
    assert first is second is not third
    assert first.place == KEPT[0].place


def test_a_consumer_of_a_journal_from_before_batches_could_be_excluded_is_read() -> None:
    (noted,) = through_json(
        [ConsumerNoted("s", "c", Reader(1, "r"), True, True, False, False, 3, {"lost": 4, "too": 5}, 1.0)]
    )
    assert isinstance(noted, ConsumerNoted)
    assert noted.excluded == {"lost": 4, "too": 5}
    before = {**encode(noted), "excluded": []}
    assert Decoder(counts=False).decode(json.loads(json.dumps(before))) == replace(noted, excluded={})
    with pytest.raises(ValueError, match="sequence"):
        Decoder(counts=False).decode({**before, "excluded": ["without its epoch"]})
