"""File, environment and flags into one `Settings`, remembering where each value came from."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from penstock.errors import InvalidOption
from penstock.settings.ranges import bounds
from penstock.settings.rooms import Settings

PREFIX = "PENSTOCK_"

CLIENT_VARIABLES = frozenset({"PENSTOCK_ENDPOINT"})
"""Variables that clients on the same machine read; no settings of the daemon."""

_KUBERNETES = re.compile(r"PENSTOCK(_\w+)?_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_\w+)?)")
"""What Kubernetes puts into every pod beside a Service called penstock or penstock-…; nobody asked for these."""

Tree = dict[str, Any]


class _Environment(Settings, BaseSettings):
    """The shape that pydantic-settings looks for in the environment; never built."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")


def load(config_file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """The settings: defaults, below the TOML file, below the environment, below `overrides` (the flags).

    `overrides` is a tree like the file's; keys that are None count as not given. Raises `InvalidOption`, whose message
    lists everything that is wrong, one line each.
    """
    sources = {
        str(config_file): _read_file(config_file) if config_file else {},
        "the environment": _read_environment(),
        "the command line": _without_none(overrides or {}),
    }
    merged: Tree = {}
    for tree in sources.values():
        _merge(merged, tree)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise InvalidOption("\n".join(_describe(wrong, sources) for wrong in error.errors())) from None


def _read_file(path: Path) -> Tree:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise InvalidOption(f"the settings file {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # bytes, syntax, numbers too long for Python, nesting
        raise InvalidOption(f"the settings file {path} is not TOML: {error}") from error


def _read_environment() -> Tree:
    for variable in os.environ:
        known = variable in CLIENT_VARIABLES or _KUBERNETES.fullmatch(variable)
        if variable.upper().startswith(PREFIX) and not known:
            key = variable[len(PREFIX) :].lower().partition("__")[0]
            if key not in Settings.model_fields:
                raise InvalidOption(f"the environment variable {variable} names no setting{_suggestion(key, Settings)}")
    try:
        return EnvSettingsSource(_Environment, env_prefix=PREFIX, env_nested_delimiter="__")()
    except SettingsError as error:
        raise InvalidOption(
            f"an environment variable cannot be read: {error}: {error.__cause__}; tables are written as JSON objects"
        ) from error


def _without_none(tree: Mapping[str, Any]) -> Tree:
    """Leave out what was not given, and rooms of which nothing was."""
    given: Tree = {}
    for key, value in tree.items():
        kept = _without_none(value) if isinstance(value, Mapping) else value
        if kept is not None and kept != {}:
            given[key] = kept
    return given


def _merge(below: Tree, above: Tree) -> None:
    for key, value in above.items():
        if not isinstance(value, dict):
            below[key] = value
            continue
        if not isinstance(below.get(key), dict):
            below[key] = {}
        _merge(below[key], value)


def _describe(wrong: ErrorDetails, sources: Mapping[str, Tree]) -> str:
    """One line: key, value, what is allowed, and where the value came from."""
    path = [str(part) for part in wrong["loc"]]
    if wrong["type"] == "extra_forbidden":
        room = _room(path[:-1])
        return f"unknown setting {'.'.join(path)} ({_origin(path, sources)}){_suggestion(path[-1], room)}"
    if wrong["type"] == "model_type":
        keys = ", ".join(sorted(_room(path).model_fields))
        return f"{'.'.join(path)} = {wrong['input']!r} ({_origin(path, sources)}): it is a table of settings: {keys}"
    reason = wrong["msg"].removeprefix("Value error, ")
    if not path or _is_room(path):
        return f"settings{' of ' + path[0] if path else ''}: {reason}"
    allowed = _allowed(_field(path))
    return f"{'.'.join(path)} = {wrong['input']!r} ({_origin(path, sources)}): {reason}{allowed}"


def _origin(path: list[str], sources: Mapping[str, Tree]) -> str:
    for name, tree in reversed(list(sources.items())):
        if _has(tree, path):
            return f"from {name}" if name != "the environment" else f"from {PREFIX}{'__'.join(path[:2]).upper()}"
    return "default"


def _has(tree: Any, path: list[str]) -> bool:
    """Whether a source gives a value; what lies inside a list belongs to the list."""
    for key in path:
        if not isinstance(tree, dict):
            return True
        if key not in tree:
            return False
        tree = tree[key]
    return True


def _is_room(path: list[str]) -> bool:
    return len(path) == 1 and _room(path) is not Settings


def _room(path: list[str]) -> type[BaseModel]:
    kind = Settings.model_fields[path[0]].annotation if path and path[0] in Settings.model_fields else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else Settings


def _field(path: list[str]) -> FieldInfo | None:
    fields = _room(path).model_fields
    return fields.get(path[1] if len(path) > 1 and _is_room(path[:1]) else path[0])


def _allowed(field: FieldInfo | None) -> str:
    """The range, from the same constants that check it."""
    limits = bounds(field) if field else []
    return f"; allowed: {' and '.join(limits)}" if limits else ""


def _suggestion(key: str, room: type[BaseModel]) -> str:
    close = difflib.get_close_matches(key, room.model_fields, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(sorted(room.model_fields))}"
