"""JSON values checked and converted to the types of fields. What a type asks for is found out once, not for each."""

from __future__ import annotations

import functools
import math
import reprlib
import types
import typing
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

MAX_INTEGER = (1 << 63) - 1
"""Larger integers mean nothing here, and what computes with them (Arrow, floats, other JSON parsers) fails on them."""

MAX_ITEMS = 10_000
"""Of one list or object: more than any call needs, and checked in some 10 ms. The daemon's loop stands still meanwhile,
for seconds where a body of 4 MiB is one list."""

Converter: TypeAlias = Callable[[Any, bool], Any]
"""`(value, strict)` to a value of the type. Raises `Misfit`."""


class Misfit(Exception):
    """A value that is none of its type: what is needed, and where within the whole, such as `.nodes[3].id`."""

    def __init__(self, words: str, at: str = "") -> None:
        super().__init__(words)
        self.words = words
        self.at = at


class Convertible(Protocol):
    """A class that converts its own values."""

    @classmethod
    def convert(cls, said: Any, strict: bool) -> Any:  # noqa: FBT001 - a `Converter`
        """An instance. Raises `Misfit`."""


@functools.cache
def converter(kind: Any) -> Converter:
    """Of a field's type: plain values, optional ones, dicts, tuples, named tuples, classes that convert themselves."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        (other,) = (option for option in arguments if option is not type(None))
        return _optional(converter(other)) if type(None) in arguments else converter(other)
    if origin is dict:
        return _object(arguments[0], converter(arguments[1]))
    if origin is tuple:
        return _list(converter(arguments[0]))
    if hasattr(kind, "_fields"):
        return _named(kind, {name: converter(hint) for name, hint in typing.get_type_hints(kind).items()})
    whole: type[Convertible] | None = kind if hasattr(kind, "convert") else None
    return whole.convert if whole else _PLAIN[kind]


def show(value: Any) -> str:
    """A value as an error shows it: not the megabytes, nor the depth, that it may have."""
    text = _shown.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = _shown.maxlong = 80


# --- plain values: numbers that every JSON parser reads, and strings that UTF-8 can carry ---------------------------


def _integer(value: Any, _strict: bool) -> int:  # noqa: FBT001 - a `Converter`, like all below
    if type(value) is not int:
        raise _needed("an integer", value)
    if abs(value) > MAX_INTEGER:
        raise _needed("an integer of 64 bits", value)
    return value


def _number(value: Any, _strict: bool) -> float:  # noqa: FBT001
    if type(value) is int:
        value = float(value) if abs(value) <= MAX_INTEGER else math.inf
    if type(value) is not float:
        raise _needed("a number", value)
    if not math.isfinite(value):
        raise _needed("a finite number", value)
    return value


def _text(value: Any, _strict: bool) -> str:  # noqa: FBT001
    if type(value) is not str:
        raise _needed("a string", value)
    if not value.isascii():
        _check_unicode(value)
    return value


def _flag(value: Any, _strict: bool) -> bool:  # noqa: FBT001
    if type(value) is not bool:
        raise _needed("true or false", value)
    return value


def _check_unicode(value: str) -> None:
    """JSON can escape half of a surrogate pair, which no log, journal or answer could write."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Misfit(f"{show(value)} is not valid Unicode") from error


_PLAIN: dict[Any, Converter] = {
    int: _integer,
    float: _number,
    str: _text,
    bool: _flag,
    Any: lambda value, _strict: value,
}


# --- what holds others ----------------------------------------------------------------------------------------------


def _optional(inner: Converter) -> Converter:
    return lambda value, strict: None if value is None else inner(value, strict)


def _object(key_kind: type, inner: Converter) -> Converter:
    def convert(value: Any, strict: bool) -> dict[Any, Any]:  # noqa: FBT001
        if not isinstance(value, dict):
            raise _needed("an object", value)
        _check_items(value)
        found = {}
        for key, item in value.items():
            name = _key(key, key_kind)
            try:
                found[name] = inner(item, strict)
            except Misfit as misfit:
                raise Misfit(misfit.words, f".{show(key)}{misfit.at}") from misfit
        return found

    return convert


def _list(inner: Converter) -> Converter:
    """Homogeneous tuples (`tuple[X, ...]`) are JSON lists."""

    def convert(value: Any, strict: bool) -> tuple[Any, ...]:  # noqa: FBT001
        if not isinstance(value, list):
            raise _needed("a list", value)
        _check_items(value)
        found: list[Any] = []
        try:
            found.extend(inner(item, strict) for item in value)
        except Misfit as misfit:  # those before it have been taken
            raise Misfit(misfit.words, f"[{len(found)}]{misfit.at}") from misfit
        return tuple(found)

    return convert


def _named(kind: Any, inner: dict[str, Converter]) -> Converter:
    """Named tuples are JSON lists as well."""

    def convert(value: Any, strict: bool) -> Any:  # noqa: FBT001
        if not isinstance(value, list):
            raise _needed("a list", value)
        if len(value) != len(inner):
            raise _needed(f"[{', '.join(inner)}]", value)
        return kind(*(each(item, strict) for each, item in zip(inner.values(), value, strict=True)))

    return convert


def _key(key: str, kind: type) -> Any:
    """Keys of JSON objects are strings; ours may be integers (epochs)."""
    if kind is str:
        _check_unicode(key)
        return key
    if not (key.isascii() and key.isdigit() and len(key) < 20):
        raise Misfit(f"key {show(key)} is not a non-negative integer")
    return int(key)


def _check_items(value: list[Any] | dict[str, Any]) -> None:
    if len(value) > MAX_ITEMS:
        raise Misfit(f"at most {MAX_ITEMS} items are allowed, not {len(value)}")


def _needed(what: str, value: Any) -> Misfit:
    return Misfit(f"{what} is needed, not {show(value)}")
