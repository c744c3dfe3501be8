"""Whatever a client sends: a reply, or an error of ours that it can read; the daemon serves the next one as before."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis.strategies as st
import pyarrow.flight as fl
import pytest
from hypothesis import given
from tests.client.daemon import SUBSCRIPTION, Daemon
from tests.fuzz.inputs import fuzzed, json_bytes

from penstock import errors
from penstock.contract import MAX_BODY_BYTES, PROTOCOL_VERSION
from penstock.contract.actions import ACTIONS

CODES = {
    kind.code
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.PenstockError) and kind is not errors.InternalError
}
READER = {"v": PROTOCOL_VERSION, "consumer": "c", "reader": [1, "r"]}
SOUND: dict[str, dict[str, Any]] = {
    "open": {**READER, "subscription": SUBSCRIPTION, "after": 0, "share": True},
    "alive": READER,
    "bye": READER,
    "close": READER,
    "backlog": READER,
    "seal": {**READER, "epoch": 1, "after": 0, "max_rows": 3, "max_bytes": 1000},
    "plan": {**READER, "epoch": 1, "batch": "b", "slices": 4, "columns": ["data"]},
    "commit": {**READER, "epochs": [{"epoch": 1, "nodes": {"n": "b"}}], "excluded": ["x"], "task": False},
    "release": {**READER, "epoch": 1, "batch": "b"},
    "status": {"v": PROTOCOL_VERSION, "consumer": "c"},
    "drain": {"v": PROTOCOL_VERSION},
}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[fl.FlightClient]:
    with fl.connect(f"grpc://{daemon.endpoint}") as client:
        yield client


def said(client: fl.FlightClient, action: str, body: bytes) -> dict[str, Any]:
    """The reply, or the error."""
    told: dict[str, Any] = answer(
        lambda: json.loads(next(iter(client.do_action(fl.Action(action, body)))).body.to_pybytes())
    )
    return told


def answer(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except fl.FlightError as error:
        told: dict[str, Any] = json.loads(error.extra_info)
        assert told["code"] in CODES, told
        assert told["message"]
        return told


@contextlib.contextmanager
def sealed(daemon: Daemon, client: fl.FlightClient) -> Iterator[dict[str, Any]]:
    """The ticket of a slice that is held within the block."""
    reader = {**READER, "consumer": f"ticket-{next(_numbers)}"}
    daemon.publish(5)
    said(client, "open", json.dumps({**SOUND["open"], **reader}).encode())
    batch = said(client, "seal", json.dumps({**SOUND["seal"], **reader}).encode())["batch"]
    plan = said(client, "plan", json.dumps({**SOUND["plan"], **reader, "batch": batch}).encode())
    yield plan["slices"][0]["ticket"]
    said(client, "close", json.dumps(reader).encode())


_numbers = itertools.count()


def test_the_examples_cover_every_action() -> None:
    assert set(SOUND) == set(ACTIONS)


@fuzzed
@given(st.data())
def test_any_body_of_any_action_is_answered(daemon: Daemon, client: fl.FlightClient, data: st.DataObject) -> None:
    daemon.publish(3)  # so that `backlog` never waits
    said(client, "open", json.dumps(SOUND["open"]).encode())
    said(client, "seal", json.dumps(SOUND["seal"]).encode())
    daemon.publish(1)
    action = data.draw(st.sampled_from(sorted(SOUND)))
    said(client, action, data.draw(json_bytes(SOUND[action])))
    assert daemon.on_loop(daemon.held.unaccounted) == 0
    assert said(client, "status", json.dumps(SOUND["status"]).encode())["state"] == "serving"


@fuzzed
@given(st.data())
def test_any_ticket_is_answered(daemon: Daemon, client: fl.FlightClient, data: st.DataObject) -> None:
    with sealed(daemon, client) as ticket:
        assert client.do_get(fl.Ticket(json.dumps(ticket).encode())).read_all().num_rows == ticket["rows"]
        raw = data.draw(json_bytes(ticket))
        answer(lambda: client.do_get(fl.Ticket(raw)).read_all().validate(full=True))


@fuzzed
@given(st.data())
def test_any_descriptor_is_answered(daemon: Daemon, client: fl.FlightClient, data: st.DataObject) -> None:
    command = fl.FlightDescriptor.for_command(data.draw(json_bytes(SOUND["plan"])))
    path = fl.FlightDescriptor.for_path(*data.draw(st.lists(st.text(max_size=10), max_size=3)))
    answer(lambda: client.get_flight_info(data.draw(st.sampled_from([command, command, path]))))


@pytest.mark.parametrize("size", [MAX_BODY_BYTES - 100, MAX_BODY_BYTES + 1, 3 * MAX_BODY_BYTES])
def test_bodies_about_the_limit_are_read_or_refused(client: fl.FlightClient, size: int) -> None:
    body = json.dumps({**SOUND["plan"], "batch": "b" * size}).encode()
    for call in (
        lambda: said(client, "plan", body),
        lambda: answer(lambda: client.get_flight_info(fl.FlightDescriptor.for_command(body))),
        lambda: answer(lambda: client.do_get(fl.Ticket(body)).read_all()),
    ):
        told = call()
        assert told["code"] != "INTERNAL"
        assert len(told["message"]) < 1000, "an error does not repeat what it was sent"
        if size > MAX_BODY_BYTES:
            assert f"{MAX_BODY_BYTES} are allowed" in told["message"]
