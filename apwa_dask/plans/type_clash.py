"""Why the types in an expression do not fit: the smallest part that fails, its columns, and what would fit.

DuckDB says which function refused which of its own types. A person needs the column names, and a way out. So
each part of the syntax tree is bound over one row of nulls, innermost first; then, in the first that fails,
columns of other types and casts are tried in each place. What is suggested has been bound: it is no guess.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa

from apwa_dask.plans._sandbox import cursor
from apwa_dask.plans.expression_syntax import canonical, columns_in, parse, reworded, source_of, tree_of
from apwa_dask.plans.findings import listed

__all__ = ["clash_of", "probe", "readable"]

_MOST_PARTS = 200
_MOST_SIGNATURES = 4
_CASTS_OF_TEXT = ("TRY_CAST({} AS DOUBLE)", "TRY_CAST({} AS DATE)", "TRY_CAST({} AS TIMESTAMP)")
_COMPARES = ("COMPARISON", "BETWEEN")
_TEXTUAL = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)

_Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """One direct argument of a part: where it stands in the tree, what stands there, and its type."""

    path: _Path
    node: dict[str, Any]
    type: pa.DataType

    @property
    def column(self) -> str | None:
        """Its name, where a whole column stands there."""
        names = self.node.get("column_names", ())
        return names[0] if len(names) == 1 else None


def probe(sql: str, fields: Sequence[pa.Field]) -> pa.DataType:
    """Type of `sql` over columns of these types, found on one row of nulls.

    No value can fail on such a row; a literal that does not fit its place (``price > 'abc'``) does.

    Raises
    ------
    duckdb.Error
        The types do not fit.
    """
    columns = [readable(field) for field in fields] or [pa.field("_apwa_n", pa.int8())]
    nulls = pa.Table.from_arrays([pa.nulls(1, f.type) for f in columns], schema=pa.schema(columns))
    return cursor().from_arrow(nulls).project(f"{sql} AS _apwa_0").to_arrow_table().schema.field(0).type


def readable(field: pa.Field) -> pa.Field:
    """Instants are handed to DuckDB as plain UTC timestamps: no session time zone can change a result."""
    return pa.field(field.name, pa.timestamp("us") if pa.types.is_timestamp(field.type) else field.type)


def clash_of(text: str, schema: pa.Schema, error: Exception) -> str:
    """Say in the plan's terms what `error` means, which DuckDB raised for `text` over a table of `schema`.

    Parameters
    ----------
    text : str
        An expression that `apwa_dask.plans.expression_syntax.parse` takes.
    schema : pyarrow.Schema
        The columns that may be named; others are never suggested.
    error : duckdb.Error
        What `probe` raised.

    Returns
    -------
    str
        The part that fails, its columns with their types, the columns that fit in their place, a cast.
    """
    import duckdb

    part = _culprit(text, schema, type(error))
    clashes = isinstance(error, (duckdb.BinderException, duckdb.ConversionException))
    if part is None or not clashes:
        return f"{reworded(str(error))}; columns: {listed([schema.field(n) for n in parse(text).columns])}"
    columns = listed([schema.field(name) for name in columns_in(part)])
    shown = source_of(part, text)
    if isinstance(error, duckdb.ConversionException):
        said = f"in {shown} a literal does not fit the type it is compared or combined with"
        return "; ".join([f"{said}; columns: {columns}", *_ways_out(part, schema, text, cast=False)])
    ways = _ways_out(part, schema, text, cast=True)
    if not ways:
        ways = [f"DuckDB says: {reworded(str(error))}", *_signatures(str(error))]
    return "; ".join([f"the types in {shown} do not fit; columns: {columns}", *ways])


def _culprit(text: str, schema: pa.Schema, kind: type[Exception]) -> dict[str, Any] | None:
    """The innermost part that fails alone as the whole does."""
    parts = itertools.islice(_innermost_first(tree_of(text)), _MOST_PARTS)
    return next((part for part in parts if isinstance(_bound(part, schema), kind)), None)


def _innermost_first(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Parts that can stand alone: the body of a lambda and what TRY forgives cannot."""
    stack = [(node, False)]
    while stack:
        part, opened = stack.pop()
        if opened or part["class"] == "LAMBDA" or part.get("type") == "OPERATOR_TRY":
            if part["class"] != "LAMBDA":
                yield part
            continue
        stack.append((part, True))
        stack.extend((child, False) for _, child in reversed(list(_children(part))))


def _children(node: dict[str, Any]) -> Iterator[tuple[_Path, dict[str, Any]]]:
    """Expressions directly under a node, with the way to each."""
    todo: list[tuple[_Path, Any]] = [((key,), value) for key, value in reversed(node.items())]
    while todo:
        path, value = todo.pop()
        if isinstance(value, list):
            todo.extend(((*path, at), each) for at, each in reversed(list(enumerate(value))))
        elif isinstance(value, dict) and "class" not in value:
            todo.extend(((*path, key), each) for key, each in reversed(value.items()))
        elif isinstance(value, dict) and value["class"] != "TYPE":
            yield path, value


def _bound(node: dict[str, Any], schema: pa.Schema) -> pa.DataType | Exception:
    """Type of a part, or DuckDB's error."""
    import duckdb

    try:
        return probe(canonical(node), [schema.field(name) for name in columns_in(node)])
    except (duckdb.Error, orjson.JSONEncodeError) as error:  # JSON: nested too deeply to be written
        return error


def _fits(node: dict[str, Any], schema: pa.Schema) -> bool:
    return isinstance(_bound(node, schema), pa.DataType)


# --- ways out


def _ways_out(part: dict[str, Any], schema: pa.Schema, text: str, *, cast: bool) -> list[str]:
    places = [
        _Place(path, child, of)
        for path, child in _children(part)
        if isinstance(of := _bound(child, schema), pa.DataType)
    ]
    ways = []
    for place in places:
        fitting = _columns_for(place, places, part, schema)
        if fitting:
            ways.append(f"in place of {place.column}: {listed(fitting)}")
    written = _cast_for(places, part, schema, text) if cast else None
    if written is not None:
        ways.append(f"or write {written}" if ways else f"write {written}")
    return ways


def _columns_for(
    place: _Place, places: Sequence[_Place], part: dict[str, Any], schema: pa.Schema
) -> list[pa.Field]:
    if place.column is None:
        return []
    used = {name.lower() for name in columns_in(part)}
    others = [each for each in places if each is not place]
    # SQL compares text with anything by casting the text, which then fails on the rows.
    no_text = part["class"] in _COMPARES and any(not _is_text(each.type) for each in others)
    fits: dict[pa.DataType, bool] = {}
    found = []
    for field in schema:
        twice = field.name.lower() in used or schema.names.count(field.name) > 1
        if twice or (no_text and _is_text(field.type)):
            continue
        if field.type not in fits:
            column = {**place.node, "column_names": [field.name]}
            fits[field.type] = _fits(_replaced(part, place.path, column), schema)
        if fits[field.type]:
            found.append(field)
    return found


def _cast_for(places: Sequence[_Place], part: dict[str, Any], schema: pa.Schema, text: str) -> str | None:
    """The part with one argument cast, else with every text among them cast the same way."""
    texts = [place for place in places if _is_text(place.type) and place.node["class"] != "CONSTANT"]
    tries: list[tuple[tuple[_Place, ...], str]] = [
        ((place,), cast) for place in places for cast in _casts(place, part)
    ]
    tries += [(tuple(texts), cast) for cast in _CASTS_OF_TEXT] if len(texts) > 1 else []
    for chosen, cast in tries:
        changed = part
        for place in chosen:
            changed = _replaced(changed, place.path, tree_of(cast.format(canonical(place.node))))
        if _fits(changed, schema):
            return _spliced(part, [place.node for place in chosen], cast, changed, text)
    return None


def _spliced(
    part: dict[str, Any], arguments: Sequence[dict[str, Any]], cast: str, changed: dict[str, Any], text: str
) -> str:
    """The changed part in the user's own words, where each argument can be found in them."""
    written = source_of(part, text)
    for argument in arguments:
        own = source_of(argument, text)
        pattern = rf"(?<![\w\"'.]){re.escape(own)}(?![\w\"'.])"
        if len(re.findall(pattern, written)) != 1:
            return source_of(changed, "")
        written = re.sub(pattern, lambda found: cast.format(found[0]), written)
    same = not parse(written).problem and canonical(tree_of(written)) == canonical(changed)
    return written if same else source_of(changed, "")


def _casts(place: _Place, part: dict[str, Any]) -> tuple[str, ...]:
    """Casts to try, those that lose nothing before those that give NULL where a text is no number."""
    if place.node["class"] == "CONSTANT" and (_is_text(place.type) or pa.types.is_null(place.type)):
        return ()
    if _is_text(place.type):
        return _CASTS_OF_TEXT
    if part["class"] in _COMPARES or pa.types.is_nested(place.type):
        return ()
    if pa.types.is_boolean(place.type):
        return ("CAST({} AS INTEGER)", "CAST({} AS VARCHAR)")
    return ("CAST({} AS VARCHAR)",)


def _replaced(node: Any, path: _Path, by: dict[str, Any]) -> Any:
    """A copy of the tree with another part at `path`."""
    if not path:
        return by
    at, rest = path[0], path[1:]
    if isinstance(node, list):
        return [_replaced(each, rest, by) if number == at else each for number, each in enumerate(node)]
    return {key: _replaced(each, rest, by) if key == at else each for key, each in node.items()}


def _is_text(of: pa.DataType) -> bool:
    return any(fits(of) for fits in _TEXTUAL)


def _signatures(message: str) -> list[str]:
    """What a function takes, from DuckDB's list of candidates, for a wrong number of arguments."""
    found = re.findall(r"^\t(.+?) -> ", message.partition("Candidate functions:")[2], re.MULTILINE)
    if 0 < len(found) <= _MOST_SIGNATURES:
        return ["it takes " + ", ".join(each.replace(", /", "").replace('"', "") for each in found)]
    keys = re.search(r"Candidate Entries: (.+)", message)
    return [f"its members: {keys.group(1)}"] if keys else []
