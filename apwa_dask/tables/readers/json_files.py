"""JSON (an array of records, one object, any value) and JSON Lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson
import pyarrow as pa

from ...errors import SourceError
from ..decoding import detect_encoding, is_wide, text_codec, text_stream
from ..pieces import Layout, Piece, Probe
from ..scalars import scalar_kind
from ..schema import misfit, unique_names
from ..tokens import BYTES_PER_TOKEN
from .delimited import skip_to
from .json_types import Observed, fits, to_arrow
from .slicing import CutBuilder, row_cuts
from .source import ReadOptions, SourceFile

__all__ = ["probe_json", "probe_lines", "read_json", "read_lines"]

VALUE = "value"
PATH = "path"


def parse(data: bytes, encoding: str = "utf-8") -> Any:
    """Parse one JSON text strictly; lone surrogates, which no UTF-8 can hold, become U+FFFD.

    Raises
    ------
    SourceError
        Telling where the text goes wrong, never quoting it.
    """
    if text_codec(encoding) != "utf-8" or is_wide(encoding):
        data = data.decode(encoding, "replace").encode("utf-8", "replace")
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if "surrogate" not in str(error):
            raise SourceError(f"not valid JSON: {error}") from None
    try:
        value = json.loads(data.decode("utf-8", "replace"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"not valid JSON: {type(error).__name__}") from None
    return orjson.loads(
        json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def probe_json(file: SourceFile, options: ReadOptions) -> Probe:
    """Parse a JSON file whole; a file that is really JSON Lines is taken as such."""
    data = file.read()
    encoding, note = (options.encoding, "") if options.encoding else detect_encoding(data, complete=True)
    try:
        value = parse(data, encoding)
    except SourceError:
        if not _is_lines(data):
            raise
        return probe_lines(file, options)
    kind, rows = _rows(value)
    observed = _observe(rows, kind)
    layout, schema, notes = _layout(Layout(format="json", kind=kind, encoding=encoding), observed, options)
    if not schema.names:
        return Probe(schema, layout, (), ("no records" if kind == "records" else "an object without keys",))
    cuts = row_cuts(len(rows), len(data) // BYTES_PER_TOKEN, options.limits)
    return Probe(schema, layout, tuple(cuts), tuple(filter(None, (note, *notes))))


def _is_lines(data: bytes) -> bool:
    lines = [line for line in data[:65536].splitlines() if line.strip()]
    if len(lines) < 2:
        return False
    try:
        return all(isinstance(orjson.loads(line), dict) for line in lines[: max(2, min(5, len(lines) - 1))])
    except orjson.JSONDecodeError:
        return False


def _rows(value: Any) -> tuple[str, list[Any]]:
    """Return the kind of a JSON file and its rows: records of an array, one object, or plain values."""
    if isinstance(value, dict):
        return "object", [value] if value else []
    if isinstance(value, list):
        records = bool(value) and all(isinstance(item, dict) for item in value)
        return ("records" if records or not value else "values"), value
    return "values", [value]


def _observe(rows: list[Any], kind: str) -> Observed:
    observed = Observed()
    for row in rows:
        observed.see({VALUE: row} if kind == "values" else row)
    return observed


def _layout(base: Layout, observed: Observed, options: ReadOptions) -> tuple[Layout, pa.Schema, list[str]]:
    keys = list(observed.keys)
    names, notes = unique_names(keys)
    fields = [
        pa.field(name, options.schema.get(name, observed.keys[key].type()))
        for key, name in zip(keys, names, strict=True)
    ]
    if base.kind == "object" and fields and PATH not in names:
        fields.insert(0, pa.field(PATH, pa.string()))
    layout = Layout(
        format=base.format,
        kind=base.kind,
        encoding=base.encoding,
        names=tuple(names),
        keys=tuple(keys),
        text_columns=tuple(
            field.name for field in fields if pa.types.is_string(field.type) and field.name != PATH
        ),
        whole=base.whole,
    )
    return layout, pa.schema(fields), notes


def probe_lines(file: SourceFile, options: ReadOptions) -> Probe:
    """Learn schema and cuts of JSON Lines in one pass; all lines must be JSON, within the inferred bytes."""
    encoding, note = (
        (options.encoding, "") if options.encoding else detect_encoding(file.head(), complete=False)
    )
    observed, kind, offset = Observed(), "records", 0
    cuts = CutBuilder(options.limits, 0)
    with file.stream() as raw:
        for number, line in enumerate(text_stream(raw, encoding), start=1):
            offset += len(line)
            if not _content(line):
                continue
            cuts.add(offset, max(1, len(line) // BYTES_PER_TOKEN))
            if offset > options.infer_bytes:
                continue
            value = _parse_line(line, encoding, number)
            if not isinstance(value, dict):
                kind = "values"
            observed.see(value if isinstance(value, dict) else {VALUE: value})
    if kind == "values":
        observed = _values_only(observed)
    base = Layout(format="jsonl", kind=kind, encoding=encoding, whole=offset <= options.infer_bytes)
    layout, schema, notes = _layout(base, observed, options)
    made = cuts.finish()
    return Probe(schema, layout, made if schema.names else (), tuple(filter(None, (note, *notes))))


def _values_only(observed: Observed) -> Observed:
    """Lines that are not all objects are kept whole in one column; mixed with objects they are JSON text."""
    merged = Observed(kinds={"struct"}, keys={VALUE: observed.keys.get(VALUE, Observed())})
    if set(observed.keys) - {VALUE}:
        merged.keys[VALUE].kinds.add("text")
    return merged


def _content(line: bytes) -> bytes:
    return line.removeprefix(b"\xef\xbb\xbf").strip()


def _parse_line(line: bytes, encoding: str, number: int) -> Any:
    codec = text_codec(encoding)
    try:
        return parse(_content(line), codec)
    except SourceError as error:
        raise SourceError(
            f"line {number} is {error.what}", fix="repair the line, or read the file as text: format='text'"
        ) from None


def read_json(file: SourceFile, layout: Layout, piece: Piece, schema: pa.Schema) -> pa.Table:
    """Read rows of a JSON file; the file is parsed whole."""
    kind, rows = _rows(parse(file.read(), layout.encoding))
    if kind != layout.kind:
        raise SourceError("the file changed since it was looked at", where=file.path, fix="read it again")
    return _table(rows[piece.slice.start : piece.slice.stop], file, layout, piece, schema)


def read_lines(file: SourceFile, layout: Layout, piece: Piece, schema: pa.Schema) -> pa.Table:
    """Read one byte range of JSON Lines."""
    with file.stream() as raw:
        stream = text_stream(raw, layout.encoding)
        skip_to(stream, piece.slice.start)
        data = stream.read(piece.slice.stop - piece.slice.start)
    return _table(list(_lines_of(data, layout, piece)), file, layout, piece, schema)


def _lines_of(data: bytes, layout: Layout, piece: Piece) -> Iterator[Any]:
    lines = (line for line in data.split(b"\n") if _content(line))
    for number, line in enumerate(lines, start=piece.first_row + 1):
        yield _parse_line(line, layout.encoding, number)


def _table(rows: list[Any], file: SourceFile, layout: Layout, piece: Piece, schema: pa.Schema) -> pa.Table:
    records = [{VALUE: row} for row in rows] if layout.kind == "values" else rows
    if not layout.whole:
        _refuse_new_keys(records, file, layout, piece)
    columns, fields = [], []
    for key, name in zip(layout.keys, layout.names, strict=True):
        if name in schema.names:
            field = schema.field(name)
            columns.append(
                _column([record.get(key) for record in records], field, file.path, piece.first_row)
            )
            fields.append(field)
    if layout.kind == "object" and PATH not in layout.names and PATH in schema.names:
        columns.insert(0, pa.array([file.path] * len(records), pa.string()))
        fields.insert(0, schema.field(PATH))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _column(values: list[Any], field: pa.Field, path: str, first_row: int) -> pa.Array:
    for row, value in enumerate(values):
        if not fits(value, field.type):
            found = scalar_kind(value) if isinstance(value, str) else ""
            raise misfit(field, path=path, row=first_row + row, found=found)
    try:
        return to_arrow(values, field.type)
    except pa.ArrowInvalid:
        raise misfit(field, path=path, row=first_row) from None


def _refuse_new_keys(records: list[Any], file: SourceFile, layout: Layout, piece: Piece) -> None:
    known = set(layout.keys)
    for row, record in enumerate(records):
        new = [key for key in record if key not in known] if isinstance(record, dict) else [VALUE]
        if new:
            raise SourceError(
                f"a record has key {new[0]!r}, which the sample of the file did not have",
                where=f"{file.path}, row {piece.first_row + row} (from 0)",
                fix=f'declare it: schema={{"{new[0]}": "string"}}',
                code="SOURCE-TYPE",
            )
