"""Arrow in the store, pandas in the user's hands: one mapping between the two, the same for every partition.

Missing values stay missing: integers and booleans use pandas' nullable dtypes, so that an all-failed
partition has the dtypes of a full one. Columns that came from a frame keep its dtype: it travels in the Arrow
field's metadata, and so through every step that keeps the column.
"""

from __future__ import annotations

import base64

import pandas as pd
import pyarrow as pa

from apwa_dask.errors import SourceError

__all__ = [
    "CATEGORIES_KEY",
    "DTYPE_KEY",
    "arrow_schema_of",
    "empty_frame",
    "to_arrow",
    "to_pandas",
    "writable",
]

DTYPE_KEY = b"apwa:dtype"
"""Field metadata: the pandas dtype a frame's column had, as text."""
CATEGORIES_KEY = b"apwa:categories"
"""Field metadata of a categorical: all its categories, so that every partition has the same ones."""

_NULLABLE: dict[pa.DataType, pd.api.extensions.ExtensionDtype] = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
    pa.float32(): pd.Float32Dtype(),
    pa.float64(): pd.Float64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}


def _dtype_of(arrow_type: pa.DataType) -> pd.api.extensions.ExtensionDtype | None:
    """The pandas dtype of an Arrow type; None where pyarrow's own choice is right (timestamps)."""
    if arrow_type in _NULLABLE:
        return _NULLABLE[arrow_type]
    if pa.types.is_string(arrow_type) or pa.types.is_large_string(arrow_type):
        return pd.StringDtype("pyarrow")
    if pa.types.is_timestamp(arrow_type) or pa.types.is_dictionary(arrow_type):
        return None
    return pd.ArrowDtype(arrow_type)


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """A frame with a default index and one dtype for each Arrow type, whatever the values.

    Parameters
    ----------
    table : pyarrow.Table

    Returns
    -------
    pandas.DataFrame
        Same columns and rows.
    """
    bare = table.replace_schema_metadata(None)
    frame: pd.DataFrame = bare.to_pandas(types_mapper=_dtype_of, ignore_metadata=True)
    for field in table.schema:
        wanted = (field.metadata or {}).get(DTYPE_KEY, b"").decode()
        categories = (field.metadata or {}).get(CATEGORIES_KEY)
        if wanted == "category" and categories is not None:
            frame[field.name] = frame[field.name].astype(_categorical(categories, field.type.ordered))
        elif wanted and _name_of(frame[field.name].dtype) != wanted:
            frame[field.name] = _restore(frame[field.name], wanted)
    return frame


def _name_of(dtype: object) -> str:
    """The name by which `astype` finds a dtype. Its own text leaves out where nullable strings are kept."""
    if isinstance(dtype, pd.StringDtype) and dtype.na_value is pd.NA:
        return f"string[{dtype.storage}]"
    return str(dtype)


def _restore(column: pd.Series, dtype: str) -> pd.Series:
    if dtype.startswith(("int", "uint", "bool")) and column.isna().any():
        return column  # plain NumPy integers cannot hold the missing values that a step has brought in
    if dtype == "object":
        return column.astype(object).where(column.notna(), None)
    restored: pd.Series = column.astype(dtype)  # type: ignore[call-overload]
    return restored


def _categorical(packed: bytes, ordered: bool) -> pd.CategoricalDtype:
    with pa.ipc.open_stream(base64.b64decode(packed)) as stream:
        table = stream.read_all()
    return pd.CategoricalDtype(pd.Index(to_pandas(table)["categories"]).rename(None), ordered)


def empty_frame(schema: pa.Schema) -> pd.DataFrame:
    """The meta of a table: no rows, exact columns and dtypes."""
    return to_pandas(schema.empty_table())


def arrow_schema_of(frame: pd.DataFrame) -> pa.Schema:
    """Arrow schema of a frame's columns (not its index), each with the pandas dtype in its metadata.

    An object column without values is taken for text, as Dask does.

    Raises
    ------
    SourceError
        A column of objects holds values of several kinds.
    """
    fields = []
    for name, column in frame.items():
        inferred = _inferred(str(name), column)
        if column.dtype == object and pa.types.is_null(inferred):
            inferred = pa.string()
        if pa.types.is_large_string(inferred):
            inferred = pa.string()
        notes = {DTYPE_KEY: _name_of(column.dtype).encode()}
        if isinstance(column.dtype, pd.CategoricalDtype) and pa.types.is_dictionary(inferred):
            notes |= _packed(column.dtype)
        fields.append(pa.field(str(name), inferred, metadata=notes))
    return pa.schema(fields)


def _inferred(name: str, column: pd.Series) -> pa.DataType:
    try:
        return pa.Array.from_pandas(column).type
    except UnicodeEncodeError:
        return pa.string()
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        kinds = sorted({type(value).__name__ for value in column.dropna().head(1_000)})
        raise SourceError(
            f"column {name!r} holds values that no one type of a table can hold: {', '.join(kinds)}",
            fix=f"make it one kind first, for example frame[{name!r}].astype(str), or leave the column out",
            code="SOURCE-DTYPE",
        ) from None


def _packed(dtype: pd.CategoricalDtype) -> dict[bytes, bytes]:
    """The categories as text; none where a Dask frame does not know them."""
    if "__UNKNOWN_CATEGORIES__" in dtype.categories:
        return {}
    frame = pd.DataFrame({"categories": dtype.categories})
    schema = arrow_schema_of(frame)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as stream:
        stream.write_table(to_arrow(frame, schema))
    return {CATEGORIES_KEY: base64.b64encode(sink.getvalue().to_pybytes())}


def to_arrow(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    """The columns of `schema` from a frame, cast to it; the index is not read.

    Lone surrogates, which no Arrow string can hold, become U+FFFD.

    Raises
    ------
    pyarrow.ArrowInvalid
        A value does not fit the declared type.
    """
    columns = [_array(frame[field.name], field.type) for field in schema]
    return pa.Table.from_arrays(
        [c if isinstance(c, pa.ChunkedArray) else pa.chunked_array([c]) for c in columns], schema=schema
    )


def _array(column: pd.Series, kind: pa.DataType) -> pa.Array:
    try:
        return pa.Array.from_pandas(column, type=kind)
    except UnicodeEncodeError:
        return pa.Array.from_pandas(column.astype(object).map(writable, na_action="ignore"), type=kind)
    except pa.ArrowTypeError:
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise
        # of an object column only its first values say that it holds text
        return pa.Array.from_pandas(column.astype(object).map(_as_text, na_action="ignore"), type=kind)


def _as_text(value: object) -> object:
    return writable(value) if isinstance(value, str) else str(value)


def writable(value: object) -> object:
    """A value with text that Arrow can hold: lone surrogates become U+FFFD."""
    if not isinstance(value, str):
        return value
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
