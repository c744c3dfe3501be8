"""The sink's options, checked all at once before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.client import WriteSettings
from penstock.client.node import host_and_port
from penstock.client.writing import COMPRESS_ABOVE_BYTES
from penstock.contract import topic_path
from penstock.contract.publishing import FLUSH_TIMEOUT_S, LONGEST_TIMEOUT_S, ON_INVALID, RETRY_TIMEOUT_S
from penstock.errors import InvalidOption, InvalidRequest
from pyspark_pubsub import values
from pyspark_pubsub.options import CREDENTIALS
from pyspark_pubsub.said import Said

KNOWN = (
    "projectId",
    "topicId",
    "daemons",
    "nodeWait",
    "format",
    "flushTimeout",
    "retryTimeout",
    "compression",
    "compressionThreshold",
    "createTopic",
    "onInvalid",
    "deadLetterTopic",
    "tracing",
    # Spark's own, which it hands on to the sink of a stream.
    "checkpointLocation",
)

# Options of other sinks, and of the source, that mean something else here.
ELSEWHERE: dict[str, str] = {
    **dict.fromkeys(
        (
            "clientId",
            "clientEmail",
            "privateKey",
            "privateKeyId",
            "serviceCredential",
            "credentials",
            "credentialsFile",
        ),
        CREDENTIALS,
    ),
    "subscriptionId": "a sink writes to a topic: name it with topicId",
    "topic": "name it with topicId (an ID, or projects/PROJECT/topics/ID), or write a column `topic`",
    "project": "name it with projectId",
    "path": "save() and start() take no path: name the topic with topicId",
    "orderingKey": "write a column `ordering_key`",
    "repartition": "Spark lets no Python sink ask for it: write pyspark_pubsub.by_ordering_key(df), which brings rows "
    "of each key into one task",
    "dedupe": "set tracing=true here, and dedupe=true where the messages are read",
}


@dataclass(frozen=True, kw_only=True)
class SinkOptions:
    """Checked options. `endpoints`: daemons, of which each task takes one; none: the one beside it."""

    settings: WriteSettings
    endpoints: tuple[str, ...]
    node_wait_s: float
    tracing: bool

    @classmethod
    def parse(cls, given: Mapping[str, str]) -> SinkOptions:
        """Read Spark's options, whose names are case-insensitive. Raises `InvalidOption`."""
        said = Said(given, KNOWN, ELSEWHERE)
        project = said.get("projectId")
        dead_letter_topic = _topic(said, "deadLetterTopic", project)
        on_invalid = said.get("onInvalid") or "fail"
        if on_invalid not in ON_INVALID:
            values.refuse("onInvalid", on_invalid, f"one of {', '.join(ON_INVALID)}")
        if (on_invalid == "deadletter") != (dead_letter_topic is not None):
            raise InvalidOption(
                "options onInvalid=deadletter and deadLetterTopic go together: set both, or leave both out"
            )
        settings = WriteSettings(
            topic=_topic(said, "topicId", project),
            project=project,
            as_json=_json(said),
            flush_timeout_s=_timeout(said, "flushTimeout", FLUSH_TIMEOUT_S),
            retry_timeout_s=_timeout(said, "retryTimeout", RETRY_TIMEOUT_S),
            compress_above_bytes=_compression(said),
            create_topic=said.boolean("createTopic") or False,
            on_invalid=on_invalid,
            dead_letter_topic=dead_letter_topic,
        )
        return cls(
            settings=settings,
            endpoints=_endpoints(said),
            node_wait_s=said.seconds_or("nodeWait", 90.0),
            tracing=said.boolean("tracing") or False,
        )


def _topic(said: Said, option: str, project: str | None) -> str | None:
    topic = said.get(option)
    if topic is None:
        return None
    if project is None and "/" not in topic:
        raise InvalidOption(
            f"option projectId is missing: {option}={topic!r} is an ID only. Set projectId, or write "
            f"projects/PROJECT/topics/{topic}"
        )
    try:
        path = topic_path(topic, project)
    except InvalidRequest as error:
        raise InvalidOption(f"option {option}={topic!r}: {error.message}") from error
    if project is not None and path.split("/")[1] != project and option == "topicId":
        raise InvalidOption(
            f"options projectId={project!r} and topicId={topic!r} contradict each other: leave projectId out"
        )
    return path


def _json(said: Said) -> bool:
    payload = said.get("format")
    if payload not in {None, "json"}:
        values.refuse("format", payload or "", "json, or leave it out and write a column `data`")
    return payload == "json"


def _timeout(said: Said, option: str, default_s: float) -> float:
    seconds = said.seconds_or(option, default_s)
    if not 0 < seconds <= LONGEST_TIMEOUT_S:
        values.refuse(option, said.get(option) or "", "more than 0 and at most 24h, such as 60s or 10m")
    return seconds


def _compression(said: Said) -> int | None:
    chosen = said.get("compression") or "none"
    threshold = said.size_bytes("compressionThreshold")
    if chosen not in {"none", "gzip"}:
        values.refuse("compression", chosen, "gzip or none")
    if chosen == "none" and threshold is not None:
        raise InvalidOption("option compressionThreshold says from where on to compress: set compression=gzip as well")
    return None if chosen == "none" else threshold or COMPRESS_ABOVE_BYTES


def _endpoints(said: Said) -> tuple[str, ...]:
    addresses = values.names(said.get("daemons") or "")
    if any(address.startswith("dns:") for address in addresses):
        values.refuse("daemons", said.get("daemons") or "", "host:port, several separated by commas")
    try:
        return tuple(host_and_port(address) for address in addresses)
    except InvalidOption as error:
        raise InvalidOption(f"option daemons: {error.message}") from error
