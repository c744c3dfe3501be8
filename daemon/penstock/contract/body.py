"""Frozen dataclasses to and from JSON, with a message that names the field for everything that does not fit."""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
import types
import typing
from typing import Any, Self

from penstock.errors import InvalidRequest, ProtocolMismatch

MAX_INTEGER = (1 << 63) - 1
"""Larger integers mean nothing here, and what computes with them (Arrow, floats, other JSON parsers) fails on them."""

MAX_ITEMS = 10_000
"""Of one list or object: more than any call needs, and checked in some 10 ms. The daemon's loop stands still meanwhile,
for seconds where a body of 4 MiB is one list."""

_PLAIN: dict[type, str] = {int: "an integer", str: "a string", bool: "true or false"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Body:
    """A JSON body. Subclasses are frozen dataclasses of plain values, containers and other bodies."""

    def to_json(self) -> bytes:
        """The body as UTF-8 JSON, fields that are None left out."""
        return json.dumps(self.to_plain(), separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, raw: bytes, *, strict: bool = False) -> Self:
        """Parse and check every field.

        Unknown fields are ignored (a newer peer may say more), or with `strict` refused (a misspelt field must not
        pass for its default). Raises `InvalidRequest`.
        """
        try:
            said = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"{cls.__name__}: not JSON ({error})") from error
        return cls.from_plain(said, strict=strict)

    @classmethod
    def from_plain(cls, said: Any, *, strict: bool = False, path: str = "") -> Self:
        """Like `from_json`, from parsed JSON."""
        where = path or cls.__name__
        if not isinstance(said, dict):
            raise InvalidRequest(f"{where}: an object is needed, not {_show(said)}")
        fields = _fields_of(cls)
        if strict and (unknown := sorted(set(said) - set(fields))):
            raise InvalidRequest(f"{where}: unknown field {_show(unknown[0])}; known are {', '.join(fields)}")
        values: dict[str, Any] = {}
        for name, (kind, required) in fields.items():
            if name in said:
                values[name] = _convert(said[name], kind, f"{where}.{name}", strict=strict)
            elif required:
                raise InvalidRequest(f"{where}: field {name!r} is missing")
        return cls(**values)

    def to_plain(self) -> dict[str, Any]:
        """The body as JSON values, fields that are None left out."""
        pairs = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {name: _lower(value) for name, value in pairs if value is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Body):
    """An action body that a client sends. `v` is read before all else, so that versions can differ in everything."""

    v: int

    @classmethod
    def read(cls, raw: bytes, version: int) -> Self:
        """Parse strictly. Raises `ProtocolMismatch` or `InvalidRequest`."""
        try:
            said = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"{cls.__name__}: not JSON ({error})") from error
        if isinstance(said, dict) and said.get("v") != version:
            raise ProtocolMismatch(
                f"this daemon speaks protocol version {version}, the caller {_show(said.get('v'))}: install the same "
                "release of penstock on both sides",
                speaks=version,
            )
        return cls.from_plain(said, strict=True)


_FIELDS: dict[type[Body], dict[str, tuple[Any, bool]]] = {}


def _fields_of(cls: type[Body]) -> dict[str, tuple[Any, bool]]:
    """Name → (type, whether it is required), found out once for each class."""
    if cls not in _FIELDS:
        _FIELDS[cls] = _inspected(cls)
    return _FIELDS[cls]


def _inspected(cls: type[Body]) -> dict[str, tuple[Any, bool]]:
    hints = typing.get_type_hints(cls)
    missing = dataclasses.MISSING
    return {
        field.name: (hints[field.name], field.default is missing and field.default_factory is missing)
        for field in dataclasses.fields(cls)
    }


def _lower(value: Any) -> Any:
    if isinstance(value, Body):
        return value.to_plain()
    if isinstance(value, dict):
        return {str(key): _lower(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_lower(item) for item in value]
    return value


def _convert(value: Any, kind: Any, path: str, *, strict: bool) -> Any:  # noqa: PLR0911 - one line for each kind
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        (kind,) = (option for option in arguments if option is not type(None))
        return _convert(value, kind, path, strict=strict)
    if kind is Any:
        return value
    if origin is dict:
        if not isinstance(value, dict):
            raise InvalidRequest(f"{path}: an object is needed, not {_show(value)}")
        _check_items(value, path)
        return {
            _key(key, arguments[0], path): _convert(item, arguments[1], f"{path}.{_show(key)}", strict=strict)
            for key, item in value.items()
        }
    if origin is tuple or hasattr(kind, "_fields"):
        return _sequence(value, kind, path, strict=strict)
    if isinstance(kind, type) and issubclass(kind, Body):
        return kind.from_plain(value, strict=strict, path=path)
    return _plain(value, kind, path)


def _plain(value: Any, kind: Any, path: str) -> Any:
    """Numbers that every JSON parser reads, and strings that UTF-8 can carry."""
    if kind is float and type(value) is int:
        value = float(value) if abs(value) <= MAX_INTEGER else math.inf
    if type(value) is not kind:
        raise InvalidRequest(f"{path}: {_PLAIN.get(kind, 'a number')} is needed, not {_show(value)}")
    if kind is int and abs(value) > MAX_INTEGER:
        raise InvalidRequest(f"{path}: an integer of 64 bits is needed, not {_show(value)}")
    if kind is float and not math.isfinite(value):
        raise InvalidRequest(f"{path}: a finite number is needed, not {_show(value)}")
    if kind is str:
        _check_text(value, path)
    return value


def _check_items(value: list[Any] | dict[str, Any], path: str) -> None:
    if len(value) > MAX_ITEMS:
        raise InvalidRequest(f"{path}: at most {MAX_ITEMS} items are allowed, not {len(value)}")


def _check_text(value: str, path: str) -> None:
    """JSON can escape half of a surrogate pair, which no log, journal or answer could write."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{path}: {_show(value)} is not valid Unicode") from error


def _sequence(value: Any, kind: Any, path: str, *, strict: bool) -> Any:
    """Homogeneous tuples (`tuple[X, ...]`) and named tuples are JSON lists."""
    if not isinstance(value, list):
        raise InvalidRequest(f"{path}: a list is needed, not {_show(value)}")
    _check_items(value, path)
    if typing.get_origin(kind) is tuple:
        item_kind = typing.get_args(kind)[0]
        return tuple(_convert(item, item_kind, f"{path}[{i}]", strict=strict) for i, item in enumerate(value))
    hints = typing.get_type_hints(kind)
    if len(value) != len(hints):
        raise InvalidRequest(f"{path}: [{', '.join(hints)}] is needed, not {_show(value)}")
    return kind(*(_convert(item, hint, path, strict=strict) for item, hint in zip(value, hints.values(), strict=True)))


def _key(key: str, kind: type, path: str) -> Any:
    """Keys of JSON objects are strings; ours may be integers (epochs)."""
    if kind is str:
        _check_text(key, path)
        return key
    if not (key.isascii() and key.isdigit() and len(key) < 20):
        raise InvalidRequest(f"{path}: key {_show(key)} is not a non-negative integer")
    return int(key)


_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = _shown.maxlong = 80


def _show(value: Any) -> str:
    """A value as an error shows it: not the megabytes, nor the depth, that it may have."""
    text = _shown.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
