"""Names and types: unique column names, one type for a column over all files, casts that lose nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import ConfigError, SourceError, candidates

if TYPE_CHECKING:
    from decimal import Decimal

__all__ = [
    "ROW_ID",
    "SURPLUS",
    "conform",
    "declared_type",
    "json_text",
    "plain_type",
    "type_name",
    "unify",
    "unique_names",
]

ROW_ID = "_apwa_row"
"""Column of stable row ids, when asked for; no file's own column is given this name."""

SURPLUS = "_extra"
"""Column that keeps the cells of rows longer than the header."""

MAX_NESTED_LEAVES = 64
"""A JSON object with more leaves than this becomes JSON text: its union over files would be mostly nulls."""

_BY_NAME: dict[str, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "binary": pa.binary(),
}


def declared_type(name_or_type: str | pa.DataType) -> pa.DataType:
    """Return the Arrow type of one of our type names.

    Raises
    ------
    ConfigError
        For a name that is none of ours.
    """
    if isinstance(name_or_type, pa.DataType):
        return plain_type(name_or_type)
    if name_or_type not in _BY_NAME:
        raise ConfigError(
            f"{name_or_type!r} is not a type",
            where="schema=",
            fix=candidates(name_or_type, _BY_NAME, noun="types"),
            code="SOURCE-TYPE",
        )
    return _BY_NAME[name_or_type]


def type_name(kind: pa.DataType) -> str:
    """Name an Arrow type in our words: string integer number boolean date timestamp binary list struct."""
    tests: tuple[tuple[str, Callable[[pa.DataType], bool]], ...] = (
        ("boolean", pa.types.is_boolean),
        ("integer", pa.types.is_integer),
        ("number", lambda t: bool(pa.types.is_floating(t) or pa.types.is_decimal(t))),
        ("date", pa.types.is_date),
        ("timestamp", pa.types.is_timestamp),
        ("binary", _is_binary),
        ("list", lambda t: _is_list(t) or bool(pa.types.is_map(t))),
        ("struct", pa.types.is_struct),
    )
    return next((name for name, test in tests if test(kind)), "string")


def unique_names(
    raw: Iterable[str], *, reserved: Iterable[str] = (ROW_ID, SURPLUS)
) -> tuple[list[str], list[str]]:
    """Make column names unique and not blank.

    The rule: a blank name becomes ``column_<position from 1>``; a name that occurred before, ignoring case
    (SQL engines do), gets ``_2``, ``_3`` and so on.

    Returns
    -------
    names, notes : list of str
        Notes say what was renamed, for the read report.
    """
    taken = {name.casefold() for name in reserved}
    names, notes = [], []
    for position, original in enumerate(raw, start=1):
        base = original if original.strip() else f"column_{position}"
        name, count = base, 1
        while name.casefold() in taken:
            count += 1
            name = f"{base}_{count}"
        taken.add(name.casefold())
        names.append(name)
        if name != original:
            notes.append(f"column {position} {original!r} is called {name!r}")
    if len(notes) > 5:
        notes = [*notes[:5], f"{len(notes) - 5} more columns renamed"]
    return names, notes


def own_metadata(field: pa.Field) -> dict[bytes, bytes] | None:
    """Return what this package noted in a field (the dtype of a frame's column), and no other notes."""
    noted = {key: value for key, value in (field.metadata or {}).items() if key.startswith(b"apwa:")}
    return noted or None


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Drop encodings that say nothing about the values: dictionaries, large and view variants, nulls."""
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if pa.types.is_null(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if _is_list(kind):
        return pa.list_(plain_type(kind.value_type))
    if pa.types.is_struct(kind):
        if kind.num_fields == 0:
            return pa.string()
        return pa.struct([(field.name, plain_type(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    if pa.types.is_float16(kind):
        return pa.float32()
    return kind


def unify(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    """Return one type that holds the values of both, by a declared rule.

    Equal types stay. Integers widen to 64 bits, integers and floats to double precision, dates to
    timestamps. Structs take the union of their fields and lists unify their items. Anything else becomes
    string: scalars as written, nested values as JSON text.
    """
    if left.equals(right):
        return left
    if pa.types.is_integer(left) and pa.types.is_integer(right):
        return pa.int64()
    if _is_number(left) and _is_number(right):
        return _unify_numbers(left, right)
    if _is_moment(left) and _is_moment(right):
        return _unify_moments(left, right)
    if pa.types.is_struct(left) and pa.types.is_struct(right):
        return _collapse(_unify_structs(left, right))
    if _is_list(left) and _is_list(right):
        return _collapse(pa.list_(unify(left.value_type, right.value_type)))
    return pa.string()


def _unify_numbers(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    if not (pa.types.is_decimal(left) and pa.types.is_decimal(right)):
        return pa.float64()
    scale = max(left.scale, right.scale)
    whole_digits = max(left.precision - left.scale, right.precision - right.scale)
    return pa.decimal128(whole_digits + scale, scale) if whole_digits + scale <= 38 else pa.string()


def _unify_moments(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    zones = {kind.tz for kind in (left, right) if pa.types.is_timestamp(kind)}
    if len(zones) > 1:
        return pa.string()
    order = ["s", "ms", "us", "ns"]
    units = [kind.unit for kind in (left, right) if pa.types.is_timestamp(kind)]
    return pa.timestamp(max(units, key=order.index), tz=zones.pop()) if units else pa.date32()


def _unify_structs(left: pa.StructType, right: pa.StructType) -> pa.DataType:
    fields = {field.name: field.type for field in left}
    for field in right:
        fields[field.name] = unify(fields[field.name], field.type) if field.name in fields else field.type
    return pa.struct(list(fields.items()))


def _collapse(kind: pa.DataType) -> pa.DataType:
    return pa.string() if leaves(kind) > MAX_NESTED_LEAVES else kind


def leaves(kind: pa.DataType) -> int:
    """Count the scalar fields of a type."""
    if pa.types.is_struct(kind):
        return sum(leaves(field.type) for field in kind)
    return leaves(kind.value_type) if _is_list(kind) else 1


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_moment(kind: pa.DataType) -> bool:
    return bool(pa.types.is_date(kind) or pa.types.is_timestamp(kind))


def _is_list(kind: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _is_binary(kind: pa.DataType) -> bool:
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(test(kind) for test in tests)


def conform(table: pa.Table, schema: pa.Schema, *, path: str, first_row: int) -> pa.Table:
    """Give `table` exactly the columns and types of `schema`: missing columns are null, casts are checked.

    Raises
    ------
    SourceError
        Naming file, row and column, when a value does not fit the declared type.
    """
    columns = []
    for field in schema:
        position = table.schema.get_field_index(field.name)
        if position < 0:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        columns.append(cast_column(table.column(position), field, path=path, first_row=first_row))
    return pa.Table.from_arrays(columns, schema=schema)


def cast_column(column: Any, field: pa.Field, *, path: str, first_row: int) -> Any:
    """Cast one column, or say which row of which file does not fit."""
    if column.type.equals(field.type):
        return column
    try:
        return _cast(column, field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, UnicodeDecodeError):
        raise misfit(
            field, path=path, row=first_row + _first_misfit(column, field.type), found=type_name(column.type)
        ) from None


def misfit(field: pa.Field, *, path: str, row: int, found: str = "") -> SourceError:
    """Build the error for a value that does not fit; the value itself is not told, it may be private."""
    kind = type_name(field.type)
    return SourceError(
        f"a value does not fit column {field.name!r}, declared {kind}",
        where=f"{path}, row {row} (from 0), column {field.name!r}",
        why=f"the value reads as {found}" if found and found != kind else f"the value is no {kind}",
        fix=f'read it as text: schema={{"{field.name}": "string"}}',
        code="SOURCE-TYPE",
    )


def _cast(column: Any, kind: pa.DataType) -> Any:
    source = column.type
    if pa.types.is_dictionary(source) or pa.types.is_run_end_encoded(source):
        return _cast(pc.cast(column, plain_type(source)), kind)
    nested = pa.types.is_nested(source) or pa.types.is_map(source)
    if nested and pa.types.is_string(kind):
        return json_texts(column)
    if nested and not pa.types.is_map(source):
        try:
            return pc.cast(column, kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
            return pa.array(column.to_pylist(), kind)
    return pc.cast(column, kind)


def _first_misfit(column: Any, kind: pa.DataType) -> int:
    for row in range(len(column)):
        try:
            _cast(column.slice(row, 1), kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, UnicodeDecodeError):
            return row
    return 0


def json_text(value: Any) -> str | None:
    """Render a nested value as compact JSON text, a string as itself, and None as None."""
    if value is None or isinstance(value, str):
        return value
    try:
        return orjson.dumps(value, default=_json_default, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # nested more than 254 levels deep, or an integer past 64 bits
        return json.dumps(value, default=_json_default, ensure_ascii=False, separators=(",", ":"))


def json_texts(column: Any) -> pa.Array:
    """Render a nested column as JSON text, value by value."""
    values = pc.cast(
        column, _without_times(column.type)
    )  # Python has no dates after 9999, and no nanoseconds
    return pa.array([json_text(value) for value in values.to_pylist()], pa.string())


def _without_times(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_temporal(kind):
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _without_times(field.type)) for field in kind])
    if _is_list(kind):
        return pa.list_(_without_times(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(_without_times(kind.key_type), _without_times(kind.item_type))
    return kind


def _json_default(value: bytes | Decimal | object) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value)


def merge_schemas(
    schemas: Sequence[pa.Schema], overrides: Mapping[str, pa.DataType]
) -> tuple[pa.Schema, list[str]]:
    """Merge the schemas of files of one shape; `overrides` wins.

    A column without any value has type null in its file and takes the type of the others, or string.

    Returns
    -------
    schema : pyarrow.Schema
        Columns in order of first appearance.
    notes : list of str
        Columns whose types disagreed and became string.
    """
    merged: dict[str, pa.Field] = {}
    notes: dict[str, None] = {}
    for schema in schemas:
        for field in schema:
            before = merged.get(field.name)
            if before is None or pa.types.is_null(before.type):
                merged[field.name] = field
                continue
            if pa.types.is_null(field.type) or before.type.equals(field.type):
                continue
            after = unify(before.type, field.type)
            if pa.types.is_string(after):
                kinds = " or ".join(sorted({type_name(before.type), type_name(field.type)}))
                notes[f"column {field.name!r} is {kinds} in different files: read as string"] = None
            merged[field.name] = pa.field(field.name, after)
    fields = [field.with_type(overrides.get(field.name, _known(field.type))) for field in merged.values()]
    return pa.schema(fields), list(notes)


def _known(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_null(kind) else kind
