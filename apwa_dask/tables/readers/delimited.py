"""CSV and its relatives: cut at record ends found by one pass, read cell by cell as text, then converted."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv as pacsv

from ...errors import SourceError
from ..decoding import detect_encoding, is_wide, text_codec, text_stream
from ..formats import DELIMITER_OF_SUFFIX, suffixes
from ..pieces import Layout, Piece, Probe
from ..scalars import ColumnGuess, text_to_type
from ..schema import SURPLUS, unique_names
from ..tokens import BYTES_PER_TOKEN
from .dialect import Dialect, records, sniff
from .slicing import CutBuilder
from .source import SAMPLE_BYTES, ReadOptions, SourceFile

__all__ = ["probe", "read"]

_BATCH_RECORDS = 2048
_QUOTING_SAMPLE_BYTES = 4 << 20


class _Lines:
    """Iterates decoded lines and knows how many bytes have gone by."""

    def __init__(self, stream: BinaryIO, codec: str, offset: int = 0) -> None:
        self._stream, self._codec, self.offset = stream, codec, offset
        self.damaged = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._stream.readline()
        if not line:
            raise StopIteration
        first = self.offset == 0
        self.offset += len(line)
        text = line.decode(self._codec, "replace")
        self.damaged += "\ufffd" in text and "\ufffd".encode() not in line
        return clean(text.removeprefix("\ufeff") if first else text)


def clean(line: str) -> str:
    """Make a lone carriage return a blank: the parser takes it for a line end, which it is not here."""
    body = line.rstrip("\r\n")
    return line if "\r" not in body else body.replace("\r", " ") + line[len(body) :]


def probe(file: SourceFile, options: ReadOptions) -> Probe:
    """Learn dialect, schema and cuts in one pass of bounded memory."""
    sample = file.head(_QUOTING_SAMPLE_BYTES + SAMPLE_BYTES)
    complete = len(sample) < _QUOTING_SAMPLE_BYTES + SAMPLE_BYTES
    encoding, encoding_note = _encoding(sample, complete, options.encoding)
    terminator, text = _text_of(sample, encoding)
    found = suffixes(file.path)
    hint = DELIMITER_OF_SUFFIX.get(found[0], "") if found else ""
    dialect = sniff(text, complete=complete, delimiter=options.delimiter, hint=hint, header=options.header)
    raw_names = (
        dialect.header if dialect.header is not None else ("",) * (dialect.width if text.strip() else 0)
    )
    names, renamed = unique_names(raw_names)
    layout = Layout(
        format="csv",
        encoding=encoding,
        delimiter=dialect.delimiter,
        terminator=terminator,
        quoted=dialect.quoted,
        names=tuple(names),
        keys=tuple(raw_names),
    )
    notes = [note for note in (encoding_note, *dialect.notes) if note]
    if dialect.header is not None:
        notes += renamed
    if not names:
        return Probe(pa.schema([]), layout, (), ("no bytes at all" if not sample else "blank lines only",))
    with file.stream() as stream:
        return _scan(text_stream(stream, encoding, terminator), file, layout, dialect, options, notes)


def _encoding(sample: bytes, complete: bool, said: str | None) -> tuple[str, str]:
    return (said, "") if said else detect_encoding(sample, complete=complete)


def _text_of(sample: bytes, encoding: str) -> tuple[str, str]:
    """Return line terminator and decoded text of a sample."""
    codec = encoding if is_wide(encoding) else text_codec(encoding)
    text = sample.decode(codec, "replace").removeprefix("\ufeff")
    if "\r" in text and "\n" not in text:
        return "\r", text.replace("\r", "\n")
    return "\n", "".join(clean(line) for line in io.StringIO(text, newline="\n"))


def _scan(
    stream: BinaryIO,
    file: SourceFile,
    layout: Layout,
    dialect: Dialect,
    options: ReadOptions,
    notes: list[str],
) -> Probe:
    lines = _Lines(stream, text_codec(layout.encoding))
    rows = records(lines, layout.delimiter, quoted=layout.quoted)
    width = len(layout.names)
    guesses = [ColumnGuess() for _ in layout.names]
    short = surplus = 0
    batch: list[list[str]] = []
    before = 0
    try:
        for _ in range(dialect.skip):
            next(rows, None)
            before = lines.offset
        cuts = CutBuilder(options.limits, before)
        for row in rows:
            cuts.add(lines.offset, max(1, (lines.offset - before) // BYTES_PER_TOKEN))
            before = lines.offset
            if len(row) != width:
                short += len(row) < width
                surplus += any(cell.strip() for cell in row[width:])
            if lines.offset <= options.infer_bytes:
                batch.append(row)
                if len(batch) >= _BATCH_RECORDS:
                    _see(guesses, batch)
                    batch = []
    except csv.Error as error:
        raise SourceError(f"not a readable delimited file: {error}", where=file.path) from None
    _see(guesses, batch)
    if short:
        notes.append(f"{short} row(s) shorter than the header: their last columns are null")
    if surplus:
        notes.append(f"{surplus} row(s) longer than the header: the surplus cells are in column {SURPLUS!r}")
    if lines.damaged:
        notes.append(f"{lines.damaged} line(s) hold bytes that are not {layout.encoding}: read as U+FFFD")
    fields = [
        pa.field(name, options.schema.get(name, guess.type))
        for name, guess in zip(layout.names, guesses, strict=True)
    ]
    if surplus:
        fields.append(pa.field(SURPLUS, pa.string()))
    layout = _finished(layout, fields, surplus=surplus > 0, whole=before <= options.infer_bytes)
    return Probe(pa.schema(fields), layout, cuts.finish(), tuple(notes))


def _finished(layout: Layout, fields: list[pa.Field], *, surplus: bool, whole: bool) -> Layout:
    text = tuple(field.name for field in fields if pa.types.is_string(field.type))
    return dataclasses.replace(layout, text_columns=text, surplus=surplus, whole=whole)


def _see(guesses: list[ColumnGuess], batch: list[list[str]]) -> None:
    columns = itertools.zip_longest(*batch, fillvalue="")
    for guess, column in zip(guesses, columns, strict=False):
        guess.see(list(column))


def read(file: SourceFile, layout: Layout, piece: Piece, schema: pa.Schema) -> pa.Table:
    """Read one byte range; columns of `schema` that the file has, converted to their declared types."""
    cells = read_cells(file, layout, piece, _wanted(schema, layout))
    columns, fields = [], []
    for name in cells.column_names:
        field = schema.field(name)
        columns.append(text_to_type(cells.column(name), field, path=file.path, first_row=piece.first_row))
        fields.append(field)
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _wanted(schema: pa.Schema, layout: Layout) -> list[str]:
    present = {*layout.names, SURPLUS} if layout.surplus else set(layout.names)
    return [name for name in schema.names if name in present]


def read_cells(file: SourceFile, layout: Layout, piece: Piece, names: list[str]) -> pa.Table:
    """Read one byte range as text cells."""
    with file.stream() as raw:
        stream = text_stream(raw, layout.encoding, layout.terminator)
        skip_to(stream, piece.slice.start)
        data = stream.read(piece.slice.stop - piece.slice.start)
    text = data.decode(text_codec(layout.encoding), "replace")
    if piece.slice.start == 0:
        text = text.removeprefix("\ufeff")
    table = _read_fast(text, layout, names)
    if table is not None and table.num_rows == piece.rows:
        return table
    return _read_ragged(text, layout, names)


def skip_to(stream: BinaryIO, offset: int) -> None:
    """Move to an offset; a compressed stream is decompressed up to it."""
    if stream.seekable():
        stream.seek(offset)
        return
    while offset > 0:
        skipped = len(stream.read(min(offset, 1 << 20)))
        if skipped == 0:
            return
        offset -= skipped


def _read_fast(text: str, layout: Layout, names: list[str]) -> pa.Table | None:
    """Read with pyarrow; None where it refuses (ragged rows) or would change a cell (U+FEFF first)."""
    if layout.surplus or not names or text.startswith("\ufeff"):
        return None
    data = text.encode("utf-8", "replace")
    try:
        table = pacsv.read_csv(
            pa.BufferReader(data),
            pacsv.ReadOptions(column_names=list(layout.names), use_threads=False, block_size=len(data) + 1),
            pacsv.ParseOptions(
                delimiter=layout.delimiter,
                quote_char='"' if layout.quoted else False,
                newlines_in_values=layout.quoted,
            ),
            pacsv.ConvertOptions(
                column_types=dict.fromkeys(layout.names, pa.string()),
                strings_can_be_null=False,
                include_columns=names,
            ),
        )
    except pa.ArrowInvalid:
        return None
    return table


def _read_ragged(text: str, layout: Layout, names: list[str]) -> pa.Table:
    width = len(layout.names)
    lines = (clean(line) for line in io.StringIO(text, newline="\n"))
    rows = list(records(lines, layout.delimiter, quoted=layout.quoted))
    position = {name: index for index, name in enumerate(layout.names)}
    columns = {
        name: [row[position[name]] if position[name] < len(row) else "" for row in rows]
        for name in names
        if name in position
    }
    if SURPLUS in names:
        columns[SURPLUS] = [_surplus_of(row, width, layout.delimiter) for row in rows]
    if not names:
        return pa.Table.from_arrays([], names=[])
    return pa.table({name: pa.array(columns[name], pa.string()) for name in names})


def _surplus_of(row: list[str], width: int, delimiter: str) -> str:
    cells = row[width:]
    return delimiter.join(cells) if any(cell.strip() for cell in cells) else ""
