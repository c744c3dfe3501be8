"""Identifiers: readers, batch IDs, Pub/Sub resource names."""

from __future__ import annotations

import re
import uuid
from typing import NamedTuple

from penstock.errors import InvalidRequest

# https://cloud.google.com/pubsub/docs/pubsub-basics#resource_names: 3-255 characters, a letter first.
_RESOURCE = r"[A-Za-z][A-Za-z0-9\-_.~+%]{2,254}"
_PROJECT = r"[^/\s]{1,255}"
_SUBSCRIPTION = re.compile(rf"projects/{_PROJECT}/subscriptions/{_RESOURCE}")
_TOPIC = re.compile(rf"projects/{_PROJECT}/topics/{_RESOURCE}")


class Reader(NamedTuple):
    """One process that speaks for a consumer. Compared as a pair; the lower one is fenced."""

    generation: int
    uuid: str


def new_id() -> str:
    """A random ID (122 bits) for batches, readers, consumers, nodes and incarnations; never made twice."""
    return uuid.uuid4().hex


def new_node(site: str) -> str:
    """A node ID: its site and a random part.

    Only one daemon at a time can serve at a site (a machine and the address it listens on). Another node ID of the same
    site therefore means that the node before it has ended.
    """
    return f"{site}-{new_id()}"


def same_site(node: str, other: str) -> bool:
    """Whether two node IDs are of one site."""
    return node.rpartition("-")[0] == other.rpartition("-")[0]


def subscription_path(subscription: str, project: str | None = None) -> str:
    """`projects/P/subscriptions/S`, from that or from an ID and a project. Raises `InvalidRequest`."""
    return _path("subscription", _SUBSCRIPTION, subscription, project)


def topic_path(topic: str, project: str | None = None) -> str:
    """`projects/P/topics/T`, from that or from an ID and a project. Raises `InvalidRequest`."""
    return _path("topic", _TOPIC, topic, project)


def _path(kind: str, pattern: re.Pattern[str], name: str, project: str | None) -> str:
    path = f"projects/{project}/{kind}s/{name}" if project and "/" not in name else name
    if not pattern.fullmatch(path):
        raise InvalidRequest(
            f"{kind} {path!r} is not a {kind} name: write projects/PROJECT/{kind}s/ID, where ID has 3 to 255 letters, "
            "digits and -_.~+%, starting with a letter"
        )
    return path
