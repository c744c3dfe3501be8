"""Every setting with its default, its range and its meaning, as a file that can be used as it stands."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from penstock.settings.ranges import bounds
from penstock.settings.rooms import Settings

PREFIX = "PENSTOCK_"
_WIDTH = 118


def as_toml() -> str:
    """A TOML file of all defaults, explained. Loading it gives what loading nothing gives."""
    lines = [
        "# Settings of `penstock serve --config FILE`, with their defaults.",
        f"# The environment stands above the file ({PREFIX}LISTEN, {PREFIX}PUBSUB__MAX_STREAMS), flags above both.",
    ]
    rooms = []
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            rooms.append((name, field.annotation))
        else:
            lines += _setting(name, field)
    for name, room in rooms:
        lines += ["", f"# {_first_sentence(room)}", f"[{name}]"]
        for key, field in room.model_fields.items():
            lines += _setting(key, field)
    return "\n".join(lines) + "\n"


def _setting(key: str, field: FieldInfo) -> Iterator[str]:
    allowed = ", ".join(_choices(field.annotation) or bounds(field))
    text = (field.description or "") + (f" ({allowed})" if allowed else "")
    yield ""
    yield from textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")
    for example in field.examples or ():
        yield f"# {key} = {_value(example)}"
    # TOML has no null, and a default that the machine makes is none for another one: these are shown, not set.
    shown = field.default is None or field.default_factory is not None
    yield f"# {key} =" if shown else f"{key} = {_value(field.default)}"


def _value(value: Any) -> str:
    """As TOML, which writes all that a default is as JSON does, but for tables."""
    if isinstance(value, dict):
        entries = ", ".join(f"{json.dumps(key)} = {json.dumps(entry)}" for key, entry in value.items())
        return f"{{ {entries} }}" if entries else "{}"
    return json.dumps(value)


def _choices(kind: Any) -> list[str]:
    return [str(choice) for choice in get_args(kind)] if get_origin(kind) is Literal else []


def _first_sentence(room: type[BaseModel]) -> str:
    return (room.__doc__ or "").strip().split("\n")[0]
