"""Whatever comes on a pull stream: the rows that protobuf's own parser sees, or one undecodable response."""

from __future__ import annotations

import hypothesis.strategies as st
from google.protobuf.message import DecodeError
from google.pubsub_v1.types import StreamingPullResponse
from hypothesis import given
from tests.fuzz.inputs import damaged, fuzzed
from tests.pubsub.test_wire import expected_of, responses, rows_of

from penstock.pubsub import wire

_sound = responses.map(lambda said: [StreamingPullResponse.serialize(one) for one in said])
_varint = st.integers(0, 2**70).map(
    lambda value: bytes((value >> at & 0x7F) | 0x80 for at in range(0, 63, 7)) + b"\x01"
)
_raw = (
    st.binary(max_size=80)
    | _sound.map(b"".join)
    | _sound.map(b"".join).flatmap(damaged)
    | st.tuples(st.sampled_from([b"\x0a", b"\x12", b"\x1a", b"\x0a\x05\x12"]), _varint, st.binary(max_size=9)).map(
        b"".join
    )
)


@fuzzed
@given(_raw)
def test_any_bytes_are_the_rows_that_protobuf_sees_or_undecodable(raw: bytes) -> None:
    try:
        seen = StreamingPullResponse.deserialize(raw)
        expected = expected_of([seen])
    except (DecodeError, ValueError, OverflowError):  # the latter: a time that Python has no datetime for
        expected = None
    (decoded,) = wire.decode_each([raw])
    if isinstance(decoded, wire.Decoded) and expected is not None:
        assert rows_of(decoded) == expected
    elif isinstance(decoded, wire.Decoded):
        decoded.rows.validate(full=True)


@fuzzed
@given(st.lists(_raw, max_size=5))
def test_a_bad_response_costs_nothing_of_the_good_ones_beside_it(raws: list[bytes]) -> None:
    each = wire.decode_each(raws)
    good = [one for one in each if isinstance(one, wire.Decoded)]
    try:
        together = wire.decode(raws)
    except wire.Undecodable:
        assert len(good) < len(raws)
        return
    assert together.rows.num_rows == sum(one.rows.num_rows for one in good)
    assert together.ack_ids.to_pylist() == [ack_id for one in good for ack_id in one.ack_ids.to_pylist()]


@fuzzed
@given(_raw)
def test_any_first_response_tells_properties_or_is_undecodable(raw: bytes) -> None:
    try:
        said = wire.properties(raw)
    except wire.Undecodable:
        return
    assert said is None or isinstance(said.ordering, bool)
