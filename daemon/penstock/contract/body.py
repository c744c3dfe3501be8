"""Frozen dataclasses to and from JSON, with a message that names the field for everything that does not fit."""

from __future__ import annotations

import dataclasses
import json
import typing
from typing import Any, Self

from penstock.contract.kinds import Converter, Misfit, converter, show
from penstock.errors import InvalidRequest, ProtocolMismatch

_ENCODER = json.JSONEncoder(separators=(",", ":"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Body:
    """A JSON body. Subclasses are frozen dataclasses of plain values, containers and other bodies."""

    def to_json(self) -> bytes:
        """The body as UTF-8 JSON, fields that are None left out."""
        return _ENCODER.encode(self.to_plain()).encode()

    @classmethod
    def from_json(cls, raw: bytes, *, strict: bool = False) -> Self:
        """Parse and check every field.

        Unknown fields are ignored (a newer peer may say more), or with `strict` refused (a misspelt field must not
        pass for its default). Raises `InvalidRequest`.
        """
        return cls.from_plain(cls._parsed(raw), strict=strict)

    @classmethod
    def from_plain(cls, said: Any, *, strict: bool = False) -> Self:
        """Like `from_json`, from parsed JSON."""
        try:
            return cls.convert(said, strict)
        except Misfit as misfit:
            raise InvalidRequest(f"{cls.__name__}{misfit.at}: {misfit.words}") from misfit

    @classmethod
    def convert(cls, said: Any, strict: bool) -> Self:  # noqa: FBT001 - a `Converter`
        """Like `from_plain`. Raises `Misfit`."""
        if not isinstance(said, dict):
            raise Misfit(f"an object is needed, not {show(said)}")
        fields = _fields(cls)
        if strict and not said.keys() <= fields.keys():
            unknown = min(said.keys() - fields.keys())
            raise Misfit(f"unknown field {show(unknown)}; known are {', '.join(fields)}")
        values: dict[str, Any] = {}
        for name, (convert, required) in fields.items():
            if name in said:
                try:
                    values[name] = convert(said[name], strict)
                except Misfit as misfit:
                    raise Misfit(misfit.words, f".{name}{misfit.at}") from misfit
            elif required:
                raise Misfit(f"field {name!r} is missing")
        return cls(**values)

    def to_plain(self) -> dict[str, Any]:
        """The body as JSON values, fields that are None left out."""
        pairs = ((name, getattr(self, name)) for name in _fields(type(self)))
        return {name: _lower(value) for name, value in pairs if value is not None}

    @classmethod
    def _parsed(cls, raw: bytes) -> Any:
        try:
            return json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"{cls.__name__}: not JSON ({error})") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Body):
    """An action body that a client sends. `v` is read before all else, so that versions can differ in everything."""

    v: int

    @classmethod
    def read(cls, raw: bytes, version: int) -> Self:
        """Parse strictly. Raises `ProtocolMismatch` or `InvalidRequest`."""
        said = cls._parsed(raw)
        if isinstance(said, dict) and said.get("v") != version:
            raise ProtocolMismatch(
                f"this daemon speaks protocol version {version}, the caller {show(said.get('v'))}: install the same "
                "release of penstock on both sides",
                speaks=version,
            )
        return cls.from_plain(said, strict=True)


_FIELDS: dict[type[Body], dict[str, tuple[Converter, bool]]] = {}


def _fields(cls: type[Body]) -> dict[str, tuple[Converter, bool]]:
    """Name → (how it is converted, whether it is required), found out once for each class."""
    if cls not in _FIELDS:
        _FIELDS[cls] = _inspected(cls)
    return _FIELDS[cls]


def _inspected(cls: type[Body]) -> dict[str, tuple[Converter, bool]]:
    hints = typing.get_type_hints(cls)
    missing = dataclasses.MISSING
    return {
        field.name: (converter(hints[field.name]), field.default is missing and field.default_factory is missing)
        for field in dataclasses.fields(cls)
    }


def _lower(value: Any) -> Any:
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, Body):
        return value.to_plain()
    if isinstance(value, dict):
        return {str(key): _lower(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_lower(item) for item in value]
    return value
