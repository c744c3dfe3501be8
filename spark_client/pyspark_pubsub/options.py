"""The source's options, checked all at once when the query starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from penstock.client import daemon_address
from penstock.contract import COLUMNS, DEFAULT_ENDPOINT, MAX_SLICES, project, subscription_path, topic_path
from penstock.contract.actions import CreateSubscription
from penstock.errors import InvalidOption, InvalidRequest
from pyspark_pubsub import values
from pyspark_pubsub.said import Said

KNOWN = (
    "projectId",
    "subscriptionId",
    "topicId",
    "ackDeadlineSeconds",
    "enableMessageOrdering",
    "enableExactlyOnceDelivery",
    "filter",
    "daemons",
    "numPartitions",
    "maxRecordsPerTrigger",
    "maxBytesPerTrigger",
    "minRecordsPerTrigger",
    "maxTriggerDelay",
    "nodeWait",
    "availableNowIdle",
    "shareSubscription",
    "columns",
    "dedupe",
    "commitTtl",
    "lostNodes",
)

_CREATING = ("ackDeadlineSeconds", "enableMessageOrdering", "enableExactlyOnceDelivery", "filter")

CREDENTIALS = (
    "credentials belong to the daemon, so that they never enter a Spark plan: give `penstock serve` application "
    "default credentials, or credentials_file under [pubsub] in its settings"
)

# Options of Databricks' connector, and of the readers that people come from, that mean something else here.
ELSEWHERE: dict[str, str] = {
    "clientId": CREDENTIALS,
    "clientEmail": CREDENTIALS,
    "privateKey": CREDENTIALS,
    "privateKeyId": CREDENTIALS,
    "serviceCredential": CREDENTIALS,
    "credentials": CREDENTIALS,
    "credentialsFile": CREDENTIALS,
    "numFetchPartitions": "the daemon fetches, on as many pull streams as keep up ([pubsub] max_streams in its "
    "settings); use numPartitions for the number of Spark tasks that read",
    "deleteSubscriptionOnStreamStop": "a stream never deletes its subscription here: delete it with `gcloud pubsub "
    "subscriptions delete` when it is no longer wanted",
    "maxRecordsPerFetch": "the daemon fetches what its memory allows: bound a batch with maxRecordsPerTrigger or "
    "maxBytesPerTrigger",
    "maxFetchPeriod": "the daemon fetches all the time: use maxTriggerDelay with minRecordsPerTrigger to gather rows "
    "for a larger batch",
    "subscription": "name it with subscriptionId (an ID, or projects/PROJECT/subscriptions/ID)",
    "topic": "name it with topicId (an ID, or projects/PROJECT/topics/ID)",
    "project": "name it with projectId",
    "path": "load() takes no path: name the subscription with subscriptionId",
}

DEFAULT_NODE_WAIT_S, DEFAULT_IDLE_S = 90.0, 5.0
SHORTEST_ACK_DEADLINE_S, LONGEST_ACK_DEADLINE_S = 10, 600  # the service's own limits


@dataclass(frozen=True, kw_only=True)
class Options:
    """Checked options. Durations in seconds, sizes in bytes; None: not set."""

    subscription: str
    create: CreateSubscription | None
    daemons: tuple[str, ...]
    slices: int
    max_rows: int | None
    max_bytes: int | None
    min_rows: int | None
    max_delay_s: float | None
    node_wait_s: float
    available_now_idle_s: float
    share: bool
    dedupe: bool
    columns: tuple[str, ...] | None
    commit_ttl: int
    exclude_lost: bool

    @classmethod
    def parse(cls, given: Mapping[str, str]) -> Options:
        """Read Spark's options, whose names are case-insensitive. Raises `InvalidOption`."""
        said = Said(given, KNOWN, ELSEWHERE)
        project_id = said.get("projectId")
        subscription = said.get("subscriptionId")
        if subscription is None:
            raise InvalidOption(
                "option subscriptionId is missing: an ID (with projectId), or projects/PROJECT/subscriptions/ID"
            )
        if project_id is None and "/" not in subscription:
            raise InvalidOption(
                f"option projectId is missing: subscriptionId={subscription!r} is an ID only. Set projectId, or write "
                f"projects/PROJECT/subscriptions/{subscription}"
            )
        try:
            path = subscription_path(subscription, project_id)
        except InvalidRequest as error:
            named = "option subscriptionId" if project_id is None else "options projectId and subscriptionId"
            raise InvalidOption(f"{named}: {error.message}") from error
        own_project = path.split("/")[1]
        if project_id is not None and own_project != project_id:
            raise InvalidOption(
                f"options projectId={project_id!r} and subscriptionId={subscription!r} contradict each other: "
                "leave projectId out"
            )
        options = cls(
            subscription=path,
            create=_create(said, own_project),
            daemons=_daemons(said.get("daemons")),
            slices=said.count("numPartitions", highest=MAX_SLICES) or default_slices(),
            max_rows=said.count("maxRecordsPerTrigger"),
            max_bytes=said.size_bytes("maxBytesPerTrigger"),
            min_rows=said.count("minRecordsPerTrigger"),
            max_delay_s=said.seconds("maxTriggerDelay"),
            node_wait_s=said.seconds_or("nodeWait", DEFAULT_NODE_WAIT_S),
            available_now_idle_s=said.seconds_or("availableNowIdle", DEFAULT_IDLE_S),
            share=said.boolean("shareSubscription") or False,
            dedupe=said.boolean("dedupe") or False,
            columns=_columns(said.get("columns")),
            commit_ttl=said.count("commitTtl", highest=1000) or 5,
            exclude_lost=_exclude_lost(said.get("lostNodes") or "exclude"),
        )
        options._check_limits()
        return options

    def _check_limits(self) -> None:
        if self.min_rows is not None and self.max_rows is not None and self.min_rows > self.max_rows:
            raise InvalidOption(
                f"options minRecordsPerTrigger={self.min_rows} and maxRecordsPerTrigger={self.max_rows} contradict "
                "each other: the minimum must not exceed the maximum"
            )
        if self.max_delay_s is not None and self.min_rows is None:
            raise InvalidOption(
                "option maxTriggerDelay bounds how long minRecordsPerTrigger may hold rows back: set that too, or "
                "leave it out"
            )


def default_slices() -> int:
    """The cores of the cluster where the session is in this process, else those of this machine."""
    from pyspark.sql import SparkSession  # noqa: PLC0415

    session = SparkSession.getActiveSession()
    context = getattr(session, "_sc", None)  # a Spark Connect session has none
    cores = context.defaultParallelism if context is not None else os.cpu_count() or 1
    return max(1, min(int(cores), MAX_SLICES))


def _create(said: Said, project_id: str) -> CreateSubscription | None:
    topic = said.get("topicId")
    if topic is None:
        for option in _CREATING:
            if said.get(option) is not None:
                raise InvalidOption(
                    f"option {option} says how to create the subscription, which needs its topic: set topicId, or "
                    f"leave {option} out"
                )
        return None
    try:
        path = topic_path(topic, project_id)
    except InvalidRequest as error:
        raise InvalidOption(f"option topicId={topic!r}: {error.message}") from error
    deadline_s = said.count("ackDeadlineSeconds")
    if deadline_s is not None and not SHORTEST_ACK_DEADLINE_S <= deadline_s <= LONGEST_ACK_DEADLINE_S:
        values.refuse(
            "ackDeadlineSeconds", str(deadline_s), f"from {SHORTEST_ACK_DEADLINE_S} to {LONGEST_ACK_DEADLINE_S}"
        )
    return CreateSubscription(
        topic=path,
        ack_deadline_seconds=deadline_s,
        enable_message_ordering=said.boolean("enableMessageOrdering"),
        enable_exactly_once_delivery=said.boolean("enableExactlyOnceDelivery"),
        filter=said.get("filter"),
    )


def _daemons(said: str | None) -> tuple[str, ...]:
    """Addresses of all daemons to read from. `PENSTOCK_ENDPOINT` is the default's default."""
    addresses = values.names(said or os.environ.get("PENSTOCK_ENDPOINT") or DEFAULT_ENDPOINT)
    try:
        # Commas alone name none.
        return tuple(daemon_address(address) for address in addresses or [""])
    except InvalidOption as error:
        raise InvalidOption(f"{'option daemons' if said else 'PENSTOCK_ENDPOINT'}: {error.message}") from error


def _exclude_lost(said: str) -> bool:
    if said not in {"exclude", "fail"}:
        values.refuse("lostNodes", said, "exclude (go on without a node once it has given its rows back) or fail")
    return said == "exclude"


def _columns(said: str | None) -> tuple[str, ...] | None:
    if said is None:
        return None
    chosen = values.names(said)
    try:
        project(chosen)
    except InvalidRequest as error:
        raise InvalidOption(
            f"option columns={said!r}: at least one of {', '.join(COLUMNS)}, each at most once"
        ) from error
    return chosen
