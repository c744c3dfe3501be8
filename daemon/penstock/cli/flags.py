"""Flags into the tree that `settings.load` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.errors import InvalidOption


def overrides(given: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """`given` and the assignments `ROOM.KEY=VALUE` over it. None stays None: not given. Raises `InvalidOption`."""
    tree = {key: dict(value) if isinstance(value, Mapping) else value for key, value in given.items()}
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise InvalidOption(f"--set {assignment}: must look like ROOM.KEY=VALUE, as in --set pubsub.max_streams=4")
        room: dict[str, Any] = tree
        for key in keys[:-1]:
            below = room.setdefault(key, {})
            if not isinstance(below, dict):
                raise InvalidOption(f"--set {assignment}: {key} has no settings inside")
            room = below
        room[keys[-1]] = value
    return tree
