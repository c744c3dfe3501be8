"""Subscription filters: the service's grammar over attributes, evaluated on whole columns.

::

    expression := term { AND term } | term { OR term }        (AND and OR are not mixed without parentheses)
    term       := [ NOT | - ] ( "(" expression ")" | leaf )
    leaf       := attributes:KEY | attributes.KEY = "V" | attributes.KEY != "V" | hasPrefix(attributes.KEY, "P")
    KEY        := letters, digits, _ and - | "any string"
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock.emulator.refusal import invalid

MAX_FILTER_BYTES = 256

Filter = Callable[[pa.MapArray], NDArray[np.bool_]]
"""From the attributes of n messages to n booleans."""

_TOKEN = re.compile(
    r'\s*(?:(?P<word>[A-Za-z0-9_]+(?:-[A-Za-z0-9_]+)*)|(?P<text>"(?:[^"\\]|\\.)*")|(?P<sign>!=|[=:.,()\-]))'
)
# A pair of backslashes is matched too, so that what follows it is not taken for an escape.
_CODED = re.compile(r"\\(?:x(?P<hex>[0-9a-fA-F]{2})|(?P<octal>[0-3][0-7]{2})|(?P<backslash>\\))")
_RESERVED = ("AND", "OR", "NOT")


def parse_filter(text: str) -> Filter:
    """Raises `Refused` (INVALID_ARGUMENT) for what is no filter."""
    if len(text.encode()) > MAX_FILTER_BYTES:
        raise invalid(f"Filter is too long: at most {MAX_FILTER_BYTES} bytes are allowed.")
    return _Parser(text).parse()


class _Parser:
    """Recursive descent; `self._tokens` ends with an empty token."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[str] = []
        position = 0
        stripped = text.rstrip()
        while position < len(stripped):
            match = _TOKEN.match(stripped, position)
            if match is None:
                raise self._wrong(f"unexpected {stripped[position : position + 10]!r}")
            self._tokens.append(match.group().strip())
            position = match.end()
        self._tokens.append("")
        self._next = 0

    def parse(self) -> Filter:
        found = self._expression()
        if self._peek():
            raise self._wrong(f"unexpected {self._peek()!r}")
        return found

    def _expression(self) -> Filter:
        terms = [self._term()]
        joiner = self._peek()
        while self._peek() in ("AND", "OR"):
            if self._take() != joiner:
                raise self._wrong("AND and OR can only be combined with parentheses")
            terms.append(self._term())
        if len(terms) == 1:
            return terms[0]
        combine = np.logical_and if joiner == "AND" else np.logical_or
        return lambda attributes: combine.reduce([term(attributes) for term in terms])

    def _term(self) -> Filter:
        if self._peek() in ("NOT", "-"):
            self._take()
            inner = self._term()
            return lambda attributes: ~inner(attributes)
        if self._peek() == "(":
            self._take()
            inner = self._expression()
            self._expect(")")
            return inner
        return self._leaf()

    def _leaf(self) -> Filter:
        if self._peek() == "hasPrefix":
            self._take()
            self._expect("(")
            self._expect("attributes")
            self._expect(".")
            key = self._key()
            self._expect(",")
            prefix = self._string()
            self._expect(")")
            return lambda attributes: _true(pc.starts_with(_values(attributes, key), prefix))
        self._expect("attributes")
        if self._take_if(":"):
            key = self._key()
            return lambda attributes: _true(pc.is_valid(_values(attributes, key)))
        self._expect(".")
        key = self._key()
        sign = self._take()
        if sign not in ("=", "!="):
            raise self._wrong(f"'=' or '!=' is needed, not {sign!r}")
        value = self._string()
        if sign == "=":
            return lambda attributes: _true(pc.equal(_values(attributes, key), value))
        return lambda attributes: ~_true(pc.equal(_values(attributes, key), value))

    def _key(self) -> str:
        token = self._take()
        if token.startswith('"'):
            return self._unquoted(token)
        if not token or token in _RESERVED or not (token[0].isalnum() or token[0] == "_"):
            raise self._wrong(f"an attribute key is needed, not {token!r}")
        return token

    def _string(self) -> str:
        token = self._take()
        if not token.startswith('"'):
            raise self._wrong(f"a string in quotation marks is needed, not {token!r}")
        return self._unquoted(token)

    def _unquoted(self, token: str) -> str:
        """Escapes are those of JSON, and hexadecimal and octal ones."""
        plain = _CODED.sub(lambda found: f"\\u{_code(found):04x}", token)
        try:
            text: str = json.loads(plain, strict=False)
        except ValueError as error:
            raise self._wrong(f"{token} is no string ({error})") from error
        return text

    def _peek(self) -> str:
        return self._tokens[self._next]

    def _take(self) -> str:
        token = self._tokens[self._next]
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token

    def _take_if(self, token: str) -> bool:
        if self._peek() != token:
            return False
        self._take()
        return True

    def _expect(self, token: str) -> None:
        if not self._take_if(token):
            raise self._wrong(f"{token!r} is needed, not {self._peek()!r}")

    def _wrong(self, why: str) -> Exception:
        return invalid(f"Invalid filter {self._text!r}: {why}.")


def _code(found: re.Match[str]) -> int:
    """The character that an escape stands for."""
    if found["backslash"]:
        return ord(found["backslash"])
    return int(found["hex"], 16) if found["hex"] else int(found["octal"], 8)


def _values(attributes: pa.MapArray, key: str) -> pa.Array:
    """The value that each message has under the key; null where it has none."""
    return pc.map_lookup(attributes, query_key=pa.scalar(key), occurrence="first")


def _true(found: pa.Array) -> NDArray[np.bool_]:
    return np.asarray(pc.fill_null(found, False).to_numpy(zero_copy_only=False))
