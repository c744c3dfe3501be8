"""Whatever a Flight client sends, it gets an answer or one of our errors, and the daemon goes on."""

from __future__ import annotations

import functools
import gc
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import pyarrow.flight as fl
import pytest
from hypothesis import example, given
from tests.client.daemon import SUBSCRIPTION, Daemon
from tests.fuzz.examples import as_json, bodies, examples, texts

from penstock.contract import MAX_BODY_BYTES
from penstock.contract.actions import ACTIONS
from penstock.errors import BY_CODE
from penstock.flight import actions as flight_actions

CONSUMER, BATCH, NODE = "the-consumer", "the-batch", "the-node"
PLAN, INCARNATION = "the-plan", "the-incarnation"
WHO: dict[str, Any] = {"v": 1, "consumer": CONSUMER, "reader": [5, "r1"]}
CREATE = {"topic": "projects/p/topics/t", "ack_deadline_seconds": 10, "filter": "x"}
REFUSALS = {"INVALID_REQUEST", "PROTOCOL_MISMATCH", "OPEN_AGAIN", "BATCH_GONE", "PLAN_GONE", "SUBSCRIPTION_FAILED"}
ANSWER_S = 10.0
"""Nothing that these tests ask for takes long."""


def valid(action: str) -> list[dict[str, Any]]:
    """Bodies that the action takes, with `CONSUMER`, `BATCH` and so on for what differs from run to run."""
    one = {"epoch": 1, "batch": BATCH}
    plan = {**WHO, **one, "slices": 2}
    finished = {"epoch": 1, "nodes": {NODE: BATCH}}
    opening = {**WHO, "subscription": SUBSCRIPTION, "after": 0, "share": True}
    seal = {**WHO, "epoch": 2, "after": 1}
    ticket = {"v": 1, "batch": BATCH, "slice": 0, "slices": 2, "rows": 2}
    placed = [{"node": node, "endpoint": "h:1", "ticket": {**ticket, "batch": node}} for node in (NODE, "another")]
    claim = {"v": 1, "plan": PLAN, "incarnation": INCARNATION, "partition": 0}
    known: dict[str, list[dict[str, Any]]] = {
        "open": [opening, {**opening, "create": CREATE}, {**opening, "node": NODE}],
        "backlog": [WHO, {**WHO, "wait_s": 0.01}],
        "seal": [seal, {**seal, "max_rows": 1, "max_bytes": 1}],
        "plan": [plan, {**plan, "columns": ["data"]}],
        "assign": [{**WHO, "epoch": 1, "plan": plan, "slices": placed} for plan in (PLAN, "new plan")],
        "claim": [claim, {**claim, "near": NODE}],
        "exclude": [{**WHO, "epoch": 1, "batches": [BATCH, "b"]}],
        "commit": [{**WHO, "epochs": [finished], "excluded": ["b"]}, {**WHO, "epochs": [], "task": True}],
        "release": [{**WHO, **one}],
        "status": [{"v": 1}, {"v": 1, "consumer": CONSUMER}],
        "drain": [{"v": 1}],
    }
    return known.get(action, [WHO])


class Target:
    """A daemon with a batch, unsealed rows, and a client."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.client = fl.FlightClient(f"grpc://{daemon.endpoint}")
        self.options = fl.FlightCallOptions(timeout=ANSWER_S)
        self.node = daemon.reservoir.node
        self.made = 0
        self.incarnation = daemon.reservoir.incarnation
        self.renew()

    def renew(self) -> None:
        """A new consumer with a batch, and rows for the next one; those of random calls are closed."""
        held = self.daemon.held
        for consumer in list(held.consumers.values()):
            self.daemon.on_loop(functools.partial(held.close, consumer))
        self.made += 1
        self.consumer = f"c{self.made}"
        self.who = {**WHO, "consumer": self.consumer}
        self.act("open", {**self.who, "subscription": SUBSCRIPTION, "after": 0})
        self.daemon.publish(5)
        self.batch = self.act("seal", {**self.who, "epoch": 1, "after": 0, "max_rows": 4})["batch"]
        self.plan = f"p{self.made}"
        (assign, *_) = valid("assign")
        self.send("assign", self.meant(as_json(assign)))

    def act(self, action: str, body: dict[str, Any]) -> dict[str, Any]:
        """A call that must work."""
        reply: dict[str, Any] = json.loads(self.send(action, json.dumps(body).encode()))
        return reply

    def meant(self, body: bytes) -> bytes:
        """With the real names."""
        names = {CONSUMER: self.consumer, BATCH: self.batch, NODE: self.node, PLAN: self.plan}
        names[INCARNATION] = self.incarnation
        for name, real in names.items():
            body = body.replace(name.encode(), real.encode())
        return body

    def send(self, action: str, body: bytes) -> bytes:
        """One action."""
        (result,) = self.client.do_action(fl.Action(action, body), self.options)
        reply: bytes = result.body.to_pybytes()
        return reply

    def ask(self, call: str, body: bytes) -> None:
        """Any call that takes a body."""
        if call == "do_get":
            self.client.do_get(fl.Ticket(body), self.options).read_all()
        elif call == "get_flight_info":
            self.client.get_flight_info(fl.FlightDescriptor.for_command(body), self.options)
        else:
            self.send(call, body)

    def refused(self, error: fl.FlightError) -> str:
        """The code of an error, which is one of ours."""
        said = json.loads(error.extra_info)
        assert said["code"] in BY_CODE, said
        assert said["code"] != "INTERNAL", said
        assert said["node"] == self.node
        assert said["message"]
        return str(said["code"])

    def check(self) -> None:
        """The daemon answers, and knows where every message is."""
        self.daemon.calls.clear()
        self.daemon.bodies.clear()
        said = self.act("status", {"v": 1})
        assert said["subscriptions"][SUBSCRIPTION]["accounting"]["unaccounted"] == 0
        assert said["memory"]["used_bytes"] <= said["memory"]["limit_bytes"]


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with pytest.MonkeyPatch.context() as patch, Daemon() as daemon:
        patch.setattr(flight_actions, "MAX_BACKLOG_WAIT_S", 0.01)
        yield Target(daemon)


@pytest.mark.parametrize("action", sorted(ACTIONS))
@examples(8)
@given(data=st.data())
def test_an_action_answers_or_refuses_in_our_words(target: Target, action: str, data: st.DataObject) -> None:
    target.renew()
    body = target.meant(data.draw(bodies(valid(action)), label="body"))
    try:
        reply = target.send(action, body)
    except fl.FlightError as error:
        target.refused(error)
    else:
        ACTIONS[action].reply.from_json(reply, strict=True)
    target.check()


@examples(20)
@given(data=st.data())
def test_a_ticket_gets_its_rows_or_a_refusal(target: Target, data: st.DataObject) -> None:
    target.renew()
    ticket = {"v": 1, "batch": BATCH, "slice": 0, "slices": 1, "rows": 4}
    raw = target.meant(data.draw(bodies([ticket, {**ticket, "columns": ["message_id", "data"]}]), label="ticket"))
    try:
        reader = target.client.do_get(fl.Ticket(raw), target.options)
        rows = sum(len(chunk.data) for chunk in reader)
    except fl.FlightError as error:
        target.refused(error)
    else:
        assert rows == json.loads(raw)["rows"]
    target.check()


@examples(20)
@given(data=st.data())
def test_a_descriptor_gets_a_plan_or_a_refusal(target: Target, data: st.DataObject) -> None:
    target.renew()
    command = data.draw(bodies(valid("plan")), label="command")
    path = data.draw(st.none() | st.lists(st.text(max_size=9), max_size=3), label="path")
    descriptor = (
        fl.FlightDescriptor.for_command(target.meant(command))
        if path is None
        else (fl.FlightDescriptor.for_path(*path))
    )
    try:
        info = target.client.get_flight_info(descriptor, target.options)
    except fl.FlightError as error:
        target.refused(error)
    else:
        assert info.total_records == 4
    target.check()


@examples(20)
@given(name=texts.map(lambda text: text.encode(errors="replace").decode()))
@example(name="x" * 5_000)
def test_an_action_that_is_unknown_is_refused_by_name(target: Target, name: str) -> None:
    with pytest.raises(fl.FlightError) as caught:
        target.send(name, b"{}")
    assert target.refused(caught.value) == "INVALID_REQUEST"
    target.check()


@pytest.mark.parametrize("size", [MAX_BODY_BYTES, MAX_BODY_BYTES + 1])
@pytest.mark.parametrize("call", ["status", "open", "commit", "do_get", "get_flight_info"])
def test_a_body_at_the_limit_is_read_and_one_above_is_not(target: Target, call: str, size: int) -> None:
    target.renew()
    body = as_json({**WHO, "batch": "x"})[:-2]
    body += b"x" * (size - len(body) - 2) + b'"}'
    with pytest.raises(fl.FlightError) as caught:
        target.ask(call, body)
    assert target.refused(caught.value) == "INVALID_REQUEST"
    told = f"{call}: a body of {size} bytes; {MAX_BODY_BYTES} are allowed"
    assert (told in str(caught.value)) == (size > MAX_BODY_BYTES)
    target.check()


@pytest.mark.parametrize(
    ("call", "changes"),
    [
        ("backlog", {"wait_s": 10**400}),
        ("backlog", {"wait_s": float("nan")}),
        ("backlog", {"wait_s": float("inf")}),
        ("seal", {"max_rows": 10**30}),
        ("seal", {"max_bytes": 2**63}),
        ("seal", {"epoch": 10**4000}),
        ("open", {"after": 10**4000}),
        ("open", {"reader": [10**4000, "r1"]}),
        ("open", {"node": "n" * 3_000_000}),
        ("open", {"subscription": "é" * 50_000}),
        ("open", {"create": {"topic": "\ud800"}}),
        ("plan", {"batch": "b" * 3_000_000}),
        ("plan", {"columns": ["\ud800" * 9]}),
        ("plan", {"columns": ["data"] * 500_000}),
        ("assign", {"plan": "p" * 3_000_000}),
        ("assign", {"slices": [{"node": "n", "endpoint": "\ud800"}]}),
        ("assign", {"slices": [[]] * 500_000}),
        ("assign", {"epoch": 10**4000}),
        ("claim", {"plan": "p" * 3_000_000}),
        ("claim", {"incarnation": "i" * 3_000_000}),
        ("claim", {"partition": 2**63}),
        ("exclude", {"batches": ["b"] * 500_000}),
        ("exclude", {"batches": ["b" * 300]}),
        ("exclude", {"batches": [f"b{number}" for number in range(1_000)]}),
        ("commit", {"epochs": [{"epoch": 1, "nodes": {"\ud800": 1}}]}),
        ("status", {"\ud800": 1}),
        ("status", {"x" * 3_000_000: 1}),
        ("status", {"v": "é" * 3_000_000}),
    ],
)
def test_what_is_too_large_to_repeat_is_refused_in_an_error_that_arrives(
    target: Target, call: str, changes: dict[str, Any]
) -> None:
    target.renew()
    with pytest.raises(fl.FlightError) as caught:
        target.send(call, target.meant(as_json({**valid(call)[0], **changes})[: MAX_BODY_BYTES - 99_999]))
    assert target.refused(caught.value) in REFUSALS
    target.check()


def test_refusals_leave_nothing_behind(target: Target) -> None:
    large = b"x" * 1_000_000
    refused = [
        ("plan", as_json({**WHO, "epoch": 1, "batch": large.decode(), "slices": 1})),
        ("status", large),
        ("open", as_json({**WHO, "subscription": large.decode(), "after": 0})),
        ("assign", as_json({**WHO, "epoch": 1, "plan": large.decode(), "slices": valid("assign")[0]["slices"]})),
        ("claim", as_json({**valid("claim")[0], "plan": large.decode()})),
        ("exclude", as_json({**WHO, "epoch": 1, "batches": [large.decode()]})),
        ("commit", as_json({**WHO, "epochs": [[]] * 9_000})),
        ("do_get", large),
        ("get_flight_info", large),
        ("seal", as_json({**WHO, "consumer": large.decode(), "epoch": 1, "after": 0})),
    ]

    def repeat(times: int) -> int:
        """Bytes of Python's that are held afterwards."""
        for _ in range(times):
            for call, body in refused:
                with pytest.raises(fl.FlightError) as caught:
                    target.ask(call, target.meant(body))
                assert target.refused(caught.value) in REFUSALS
                del caught
            target.check()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    target.renew()
    tracemalloc.start()
    try:
        before = repeat(3)
        after = repeat(10)
    finally:
        tracemalloc.stop()
    assert after - before < 500_000, "half of one body, after a hundred"
