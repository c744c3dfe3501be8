"""JSON from columns, and attributes from JSON: whole columns at a time, with Arrow's own kernels."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json

from penstock.errors import InvalidMessage, InvalidRequest

_ESCAPES = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
_CONTROL = "[\x00-\x1f]"

# In sound JSON text no control character stands as it is, so these two can stand for escapes meanwhile.
_BACKSLASH, _QUOTE = "\x01", "\x02"
_HEX = "[0-9a-fA-F]"
_UNIT = rf"(?:[0-9abcefABCEF]{_HEX}{{3}}|[dD][0-7]{_HEX}{{2}}|[dD][89abAB]{_HEX}{{2}}\\u[dD][c-fC-F]{_HEX}{{2}})"
"""What may follow `\\u`: a character, or both halves of one, which have no meaning alone."""

_TEXT = rf'"(?:[^"\\\x00-\x1f]|[{_BACKSLASH}{_QUOTE}]|\\[/bfnrt]|\\u{_UNIT})*"'
_PAIR = rf"\s*{_TEXT}\s*:\s*{_TEXT}\s*"
_REFUSED = '{"":""}'
_OBJECT = rf"^\s*\{{({_PAIR}(,{_PAIR})*|\s*)\}}\s*$"


def encode(columns: Mapping[str, pa.Array], rows: int) -> pa.Array:
    """A JSON object (string array) for each row. As Spark's `to_json` does it, nulls are left out of objects.

    Times are ISO 8601 with microseconds, in UTC where they have a zone; NaN and infinities are strings. Raises
    `InvalidRequest` for types that JSON has no form for.
    """
    fields = [_field(name, _encode(column, name)) for name, column in columns.items()]
    return _object(fields, rows)


def encodable(kind: pa.DataType, path: str) -> None:
    """Raises `InvalidRequest`, naming the column, for a type that `encode` refuses."""
    _encode(pa.array([], kind), path)


def decoded(column: pa.Array) -> pa.Array:
    """Values in the place of numbers of values."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def attributes(texts: pa.Array, first_row: int, *, lenient: bool = False) -> pa.MapArray:
    """Maps from JSON objects of strings; null for none.

    Of anything else raises `InvalidMessage`, naming its row. `lenient`: makes a map that no daemon publishes of it, so
    that it finds this row among the others that Pub/Sub refuses.
    """
    sound = pc.fill_null(texts, "{}")
    hidden = pc.replace_substring(pc.replace_substring(sound, "\\\\", _BACKSLASH), '\\"', _QUOTE)
    fine = pc.match_substring_regex(hidden, _OBJECT)
    fine = pc.and_not(fine, pc.match_substring_regex(sound, f"[{_BACKSLASH}{_QUOTE}]"))
    if lenient:
        hidden = pc.if_else(fine, hidden, _REFUSED)
    elif not pc.all(fine).as_py():
        row = pc.index(fine, value=False).as_py()
        shown = texts[row].as_py()
        raise InvalidMessage(
            f"row {first_row + row} of this write (from 0): column attributes: {shown[:80]!r} is no JSON object of "
            "strings: write a map<string,string>, or to_json of one",
            row=first_row + row,
        )
    parts = pc.split_pattern(hidden, '"')
    keys, values = (pc.list_slice(parts, start, None, 4) for start in (1, 3))
    return pa.MapArray.from_arrays(keys.offsets, _unescaped(keys.values), _unescaped(values.values))


def _unescaped(texts: pa.Array) -> pa.Array:
    """Each different text with escapes is decoded once, all of them in one native call; most have none."""
    escaped = pc.match_substring_regex(texts, f"[\\\\{_BACKSLASH}{_QUOTE}]")
    if not pc.any(escaped).as_py():
        return texts
    different = pc.unique(texts.filter(escaped))
    shown = pc.replace_substring(pc.replace_substring(different, _BACKSLASH, "\\\\"), _QUOTE, '\\"')
    lines = pc.binary_join_element_wise('{"text":"', shown, '"}', "")
    (raw,) = pc.binary_join(pa.ListArray.from_arrays([0, len(lines)], lines), "\n").view(pa.binary())
    try:
        decoded = pa_json.read_json(
            pa.BufferReader(raw.as_buffer()),
            pa_json.ReadOptions(use_threads=False, block_size=raw.as_buffer().size + 1),
            pa_json.ParseOptions(explicit_schema=pa.schema([("text", pa.string())])),
        )
    except pa.ArrowException as error:
        raise InvalidMessage(f"column attributes: JSON that cannot be read: {error}") from error
    if len(decoded) != len(different):  # a line break that is not escaped ends a line for this reader
        raise InvalidMessage("column attributes: JSON that cannot be read: a line break within a string")
    decoded = decoded.column("text").combine_chunks()
    return pc.if_else(escaped, decoded.take(pc.index_in(texts, value_set=different)), texts)


def _encode(column: pa.Array, path: str) -> pa.Array:
    """JSON texts, null where the value is."""
    column = decoded(column)
    kind = column.type
    for fits, encoded in _ENCODERS:
        if fits(kind):
            return encoded(column, path)
    raise _refusal(kind, path)


def _refusal(kind: pa.DataType, path: str) -> InvalidRequest:
    return InvalidRequest(
        f"column {path!r} is {kind}, which JSON has no form for: convert it, as with base64({path}), or leave it out",
        column=path,
    )


def _plain(column: pa.Array, _path: str) -> pa.Array:
    return pc.cast(column, pa.string())


def _float(column: pa.Array, path: str) -> pa.Array:
    texts = _plain(column, path)
    for value, shown in (("nan", '"NaN"'), ("inf", '"Infinity"'), ("-inf", '"-Infinity"')):
        texts = pc.if_else(pc.equal(texts, value), shown, texts)
    return texts


def _quoted(column: pa.Array, path: str) -> pa.Array:
    texts = _plain(column, path)
    for character, escape in (("\\", "\\\\"), ('"', '\\"')):
        texts = pc.replace_substring(texts, character, escape)
    if pc.any(pc.match_substring_regex(texts, _CONTROL)).as_py():
        for code in range(0x20):
            texts = pc.replace_substring(texts, chr(code), _ESCAPES.get(chr(code), f"\\u{code:04x}"))
    return _braced('"', texts, '"')


def _time(column: pa.Array, _path: str) -> pa.Array:
    zone = "Z" if column.type.tz else ""
    # Without its zone it is UTC, which needs no table of zones. Of nanoseconds what is left of them is cut off.
    micros = pc.CastOptions(pa.timestamp("us"), allow_time_truncate=True)
    texts = pc.cast(pc.cast(column, options=micros), pa.string())
    return _braced('"', pc.replace_substring(texts, " ", "T"), f'{zone}"')


def _list(column: pa.Array, path: str) -> pa.Array:
    offsets, own = _own(column)
    items = pc.fill_null(_encode(column.values[own], f"{path}[]"), "null")
    return _with_nulls_of(column, _braced("[", pc.binary_join(_lists(offsets, items), ","), "]"))


def _other_list(column: pa.Array, path: str) -> pa.Array:
    return _list(column.cast(pa.list_(column.type.value_type)), path)


def _map(column: pa.Array, path: str) -> pa.Array:
    key_type, key_path = column.type.key_type, f"{path}.key"
    if pa.types.is_nested(key_type):
        raise _refusal(key_type, key_path)
    encodable(key_type, key_path)
    offsets, own = _own(column)
    items = pc.fill_null(_encode(column.items[own], f"{path}[]"), "null")
    entries = pc.binary_join_element_wise(_quoted(column.keys[own], key_path), items, ":")
    return _with_nulls_of(column, _braced("{", pc.binary_join(_lists(offsets, entries), ","), "}"))


def _own(column: pa.Array) -> tuple[pa.Array, slice]:
    """Offsets from 0, and which items are of these rows: a slice of an array has the items of all."""
    first, last = (column.offsets[at].as_py() for at in (0, -1))
    return pc.subtract(column.offsets, pa.scalar(first, pa.int32())), slice(first, last)


def _struct(column: pa.Array, path: str) -> pa.Array:
    names = [field.name for field in column.type]
    fields = [_field(name, _encode(part, f"{path}.{name}")) for name, part in zip(names, column.flatten(), strict=True)]
    return _with_nulls_of(column, _object(fields, len(column)))


def _field(name: str, texts: pa.Array) -> pa.Array:
    """Such as `,"name":1`, or nothing for null."""
    return pc.fill_null(_braced(f",{json.dumps(name, ensure_ascii=False)}:", texts, ""), "")


def _object(fields: list[pa.Array], rows: int) -> pa.Array:
    """Fields with their commas before them, in braces."""
    # Not a join that skips nulls: it loses rows that have nothing else.
    if not fields:
        return pa.repeat("{}", rows)
    texts = _braced("{", pc.binary_join_element_wise(*fields, ""), "}")
    return pc.replace_substring(texts, "{,", "{", max_replacements=1)


def _braced(before: str, texts: pa.Array, after: str) -> pa.Array:
    return pc.binary_join_element_wise(before, texts, after, "")


def _lists(offsets: pa.Array, texts: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(offsets, texts)


def _with_nulls_of(column: pa.Array, texts: pa.Array) -> pa.Array:
    return pc.if_else(column.is_valid(), texts, pa.scalar(None, pa.string()))


_ENCODERS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array, str], pa.Array]], ...] = (
    (
        lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind),
        _quoted,
    ),
    (lambda kind: pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind), _plain),
    (pa.types.is_floating, _float),
    (pa.types.is_decimal, _plain),
    (pa.types.is_date, _quoted),
    (pa.types.is_timestamp, _time),
    (pa.types.is_list, _list),
    (lambda kind: pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind), _other_list),
    (pa.types.is_map, _map),
    (pa.types.is_struct, _struct),
)
