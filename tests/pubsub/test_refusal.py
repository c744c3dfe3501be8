"""What the service refuses, ID by ID; how requests are cut; whose IDs are settled how."""

from __future__ import annotations

import functools
import random

import grpc
import grpc.aio
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given, settings

from penstock.pubsub.pending import Job, Line
from penstock.pubsub.refusal import SAY_EVERY_S, Flood
from penstock.pubsub.rpc_error import refusal
from penstock.reservoir.ports import AckOutcome

IDS = pa.array(["a", "b", "c", "d"])


def error(code: grpc.StatusCode, failures: dict[str, str] | None = None) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata()
    if failures is not None:
        packed = Any()
        packed.Pack(error_details_pb2.ErrorInfo(reason="EXACTLY_ONCE_ACKID_FAILURE", metadata=failures))
        trailing.add("grpc-status-details-bin", status_pb2.Status(details=[packed]).SerializeToString())
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, "the words")


def test_exactly_once_failures_are_read_id_by_id() -> None:
    said = {"b": "PERMANENT_FAILURE_INVALID_ACK_ID", "d": "TRANSIENT_FAILURE_SERVICE_UNAVAILABLE", "unrelated": "x"}
    refused = refusal(error(grpc.StatusCode.FAILED_PRECONDITION, said), IDS)
    assert refused.by_id
    assert refused.lost.tolist() == [False, True, False, False]
    assert refused.again.tolist() == [False, False, False, True]


def test_without_ids_the_code_speaks_for_all() -> None:
    assert refusal(error(grpc.StatusCode.NOT_FOUND), IDS).lost.all()
    for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.PERMISSION_DENIED):
        refused = refusal(error(code), IDS)
        assert refused.again.all()
        assert not refused.lost.any()
        assert not refused.by_id


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 400)), min_size=1, max_size=6), st.integers(0, 99))
def test_every_id_leaves_a_line_once_and_is_settled_for_its_own_job(jobs: list[tuple[int, int]], seed: int) -> None:
    rng = random.Random(seed)
    line, outcomes, lost_of = Line(), dict[int, AckOutcome](), dict.fromkeys(range(len(jobs)), 0)
    expected = []
    for number, (count, length) in enumerate(jobs):
        ids = [f"{number}:{i}:".ljust(length, "x") for i in range(count)]
        expected += ids
        arrays = [pa.array(ids[: count // 2]), pa.array(ids[count // 2 :], pa.string())]
        line.put(Job(count, functools.partial(outcomes.__setitem__, number)), arrays)
    taken: list[str] = []
    while line.ids:
        request = line.take()
        ids = request.ack_ids.to_pylist()
        assert 0 < len(ids) <= 2500
        assert len(ids) == 1 or sum(map(len, ids)) <= 512 << 10
        taken += ids
        lost = np.array([rng.random() < 0.1 for _ in ids])
        for ack_id in np.array(ids, object)[lost]:
            lost_of[int(ack_id.split(":")[0])] += 1
        request.settle(lost)
    assert taken == expected
    assert line.bytes == 0
    assert outcomes == {n: AckOutcome(count - lost_of[n], lost_of[n]) for n, (count, _) in enumerate(jobs)}


def test_a_flood_is_said_at_once_then_together_and_never_forgotten() -> None:
    now, said = [0.0], []
    flood = Flood(lambda: now[0], lambda *what: said.append(what))
    for _ in range(100):
        flood.add(10, "NOT_FOUND", "gone")
    assert said == [(10, "NOT_FOUND", "gone")]
    now[0] += SAY_EVERY_S
    flood.add(10, "UNAVAILABLE", "away")
    assert said[1:] == [(1000, "UNAVAILABLE", "away")]
    flood.add(1, "UNAVAILABLE", "away")
    flood.flush()
    flood.flush()
    assert sum(acks for acks, _, _ in said) == 1011
