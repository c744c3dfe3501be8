"""Which partition of a plan reads which slice, where a query has several nodes and this one deals the slices out.

All of it is in memory and ends with the process: a host that cannot tell what it dealt deals nothing, so that no slice
is ever given to two partitions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.contract import MAX_NAME_LENGTH, MAX_SLICES, project
from penstock.contract.actions import PlacedSlice, Ticket
from penstock.errors import InvalidRequest, PlanGone

MAX_PLANS = 16
"""Plans of one consumer that are kept, the latest ones. One is in use at a time, or as many as actions of a
`foreachBatch` run at once; a plan that was dropped costs a restart of the query."""

MAX_PLANNED_SLICES = MAX_SLICES
"""Slices in all plans of one consumer, beyond which the oldest are dropped: so that what plans take, which no budget
counts, is bounded. Some 400 bytes a slice make 1.6 MB for a consumer with as many as it may have."""


@dataclass
class Dealt:
    """Slices that partitions got, and how many of them are on the node beside their task."""

    claims: int = 0
    local: int = 0


class Plan:
    """One list of slices. Each goes to at most one partition, and a partition gets the same one whenever it asks."""

    def __init__(self, plan_id: str, epoch: int, slices: Sequence[PlacedSlice]) -> None:
        """Raises `InvalidRequest` for a list that nobody could read from, or that has a slice twice."""
        _check(plan_id, slices)
        self.id = plan_id
        self.epoch = epoch
        self.slices = _compact(slices)
        self._given: dict[int, int] = {}
        self._left: dict[str, list[int]] = {}
        for number in reversed(range(len(self.slices))):  # so that they are dealt from the first to the last
            self._left.setdefault(self.slices[number].node, []).append(number)

    def __repr__(self) -> str:
        """Such as `<Plan 4f0c of epoch 7: 3 of 8 slices dealt>`."""
        return f"<Plan {self.id} of epoch {self.epoch}: {len(self._given)} of {len(self.slices)} slices dealt>"

    def claim(self, partition: int, near: str | None, dealt: Dealt) -> PlacedSlice:
        """The slice of a partition: one that is near, or else of the node with most left, whose tasks miss it least.

        `dealt` counts it when it is dealt. Raises `InvalidRequest`.
        """
        if not 0 <= partition < len(self.slices):
            raise InvalidRequest(
                f"claim: plan {self.id} has {len(self.slices)} slices, so its partitions count from 0 to "
                f"{len(self.slices) - 1}; {partition} is none of them"
            )
        number = self._given.get(partition)
        if number is None:
            node = near if near in self._left else max(self._left, key=lambda node: len(self._left[node]))
            assert node is not None
            number = self._given[partition] = self._take(node)
            dealt.claims += 1
            dealt.local += node == near
        return self.slices[number]

    def _take(self, node: str) -> int:
        """The node's next slice; a node without any is left out from then on."""
        left = self._left[node]
        number = left.pop()
        if not left:
            del self._left[node]
        return number


class Plans:
    """The plans of one consumer that this node is the host of."""

    def __init__(self) -> None:
        self._by_id: OrderedDict[str, Plan] = OrderedDict()

    def __len__(self) -> int:
        """Plans."""
        return len(self._by_id)

    def __repr__(self) -> str:
        """The plans, oldest first."""
        return f"<Plans {list(self._by_id.values())}>"

    @property
    def slices(self) -> int:
        """Slices of all plans."""
        return sum(len(plan.slices) for plan in self._by_id.values())

    def assign(self, plan_id: str, epoch: int, slices: Sequence[PlacedSlice]) -> None:
        """Deal these slices from now on; one that is known keeps its claims. Raises `InvalidRequest`."""
        known = self._by_id.get(plan_id)
        if known is None:
            self._by_id[plan_id] = Plan(plan_id, epoch, slices)
            self._drop_oldest()
        elif known.epoch != epoch or known.slices != tuple(slices):
            raise InvalidRequest(
                f"assign: plan {plan_id} is known with another list of slices (epoch {known.epoch}, "
                f"{len(known.slices)} slices): a list needs a plan ID of its own"
            )
        else:
            self._by_id.move_to_end(plan_id)

    def get(self, plan_id: str) -> Plan | None:
        """The plan of that ID."""
        return self._by_id.get(plan_id)

    def finish(self, committed_through: int) -> None:
        """Spark has finished these epochs: nobody claims of their plans any more."""
        for plan in [plan for plan in self._by_id.values() if plan.epoch <= committed_through]:
            del self._by_id[plan.id]

    def clear(self) -> None:
        """What the plans are made of goes back to the service, or the consumer ends."""
        self._by_id.clear()

    def _drop_oldest(self) -> None:
        while len(self._by_id) > 1 and (len(self._by_id) > MAX_PLANS or self.slices > MAX_PLANNED_SLICES):
            self._by_id.popitem(last=False)


def plan_gone(plan_id: str, why: str) -> PlanGone:
    """The error for a plan that is not here, for the reader of a failed Spark task."""
    return PlanGone(
        f"plan {plan_id} cannot be dealt any more: {why}. Which tasks got which slices is not known, so none is dealt "
        "twice: restart the query, which plans the batch again",
        plan=plan_id,
    )


def _check(plan_id: str, slices: Sequence[PlacedSlice]) -> None:
    """What is kept is bounded, and can be read."""
    if not 1 <= len(slices) <= MAX_SLICES:
        raise InvalidRequest(f"assign: a plan has 1 to {MAX_SLICES} slices, not {len(slices)}")
    _check_length("plan", plan_id)
    for columns in {placed.ticket.columns for placed in slices}:
        project(columns)
    seen: set[tuple[str, int]] = set()
    for placed in slices:
        ticket = placed.ticket
        for what, name in (("node", placed.node), ("endpoint", placed.endpoint), ("batch", ticket.batch)):
            _check_length(what, name)
        if not 0 <= ticket.slice < ticket.slices <= MAX_SLICES:
            raise InvalidRequest(
                f"assign: slice {ticket.slice} of {ticket.slices}; 1 to {MAX_SLICES} slices, counted from 0"
            )
        if (ticket.batch, ticket.slice) in seen:
            raise InvalidRequest(f"assign: slice {ticket.slice} of batch {ticket.batch} is in the list twice")
        seen.add((ticket.batch, ticket.slice))


def _check_length(what: str, name: str) -> None:
    if not 0 < len(name) <= MAX_NAME_LENGTH:
        raise InvalidRequest(f"assign: {what}: 1 to {MAX_NAME_LENGTH} characters are allowed, not {len(name)}")


def _compact(slices: Sequence[PlacedSlice]) -> tuple[PlacedSlice, ...]:
    """The same slices, which share the texts that are equal: JSON makes new ones for each."""
    texts: dict[str, str] = {}
    columns: dict[tuple[str, ...] | None, tuple[str, ...] | None] = {}
    return tuple(
        PlacedSlice(
            node=texts.setdefault(placed.node, placed.node),
            endpoint=texts.setdefault(placed.endpoint, placed.endpoint),
            ticket=Ticket(
                v=placed.ticket.v,
                batch=texts.setdefault(placed.ticket.batch, placed.ticket.batch),
                slice=placed.ticket.slice,
                slices=placed.ticket.slices,
                rows=placed.ticket.rows,
                columns=columns.setdefault(placed.ticket.columns, placed.ticket.columns),
            ),
        )
        for placed in slices
    )
