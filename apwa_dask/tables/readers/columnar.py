"""Parquet by row group, Arrow IPC by record batch; large groups are cut by rows."""

from __future__ import annotations

from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from ...errors import SourceError
from ..pieces import Cut, Layout, Piece, Probe
from ..schema import own_metadata, plain_type, unique_names
from ..tokens import BYTES_PER_TOKEN
from .slicing import row_cuts
from .source import ReadOptions, SourceFile

__all__ = ["probe_arrow", "probe_parquet", "read_arrow", "read_parquet"]

_MAX_GROUP_BYTES = 1 << 31
_VERIFY_UNPACKED_BYTES = 256 << 20


def probe_parquet(file: SourceFile, options: ReadOptions) -> Probe:
    """Take schema, rows and sizes from the footer; small files are also read once, to find damage now."""
    with file.seekable() as stream:
        reader = pq.ParquetFile(stream)
        groups = [reader.metadata.row_group(index) for index in range(reader.num_row_groups)]
        layout, schema, notes = _layout("parquet", reader.schema_arrow, options)
        biggest = max([group.total_byte_size for group in groups], default=0)
        if biggest > _MAX_GROUP_BYTES - (1 << 20):
            raise SourceError(
                f"a row group unpacks to {biggest >> 20} MiB", fix="rewrite it with smaller row groups"
            )
        rows = [group.num_rows for group in groups]
        if (
            file.size <= options.verify_bytes
            and sum(group.total_byte_size for group in groups) <= _VERIFY_UNPACKED_BYTES
        ):
            tables = [reader.read_row_group(index, use_threads=False) for index in range(len(groups))]
            rows = [table.num_rows for table in tables]
            notes += dict.fromkeys(note for table in tables for note in _sound(table)[1])
    cuts: list[Cut] = []
    for index, group in enumerate(groups):
        tokens = group.total_byte_size // BYTES_PER_TOKEN
        first_row = sum(rows[:index])
        cuts += row_cuts(
            rows[index], tokens, options.limits, kind="row_group", group=index, first_row=first_row
        )
    return Probe(schema, layout, tuple(cuts), tuple(notes))


def _layout(name: str, physical: pa.Schema, options: ReadOptions) -> tuple[Layout, pa.Schema, list[str]]:
    names, notes = unique_names(physical.names)
    fields = [
        pa.field(name, options.schema.get(name, _type_of(field)), metadata=own_metadata(field))
        for name, field in zip(names, physical, strict=True)
    ]
    layout = Layout(
        format=name,
        names=tuple(names),
        keys=tuple(physical.names),
        text_columns=tuple(field.name for field in fields if pa.types.is_string(field.type)),
    )
    return layout, pa.schema(fields), notes


def _type_of(field: pa.Field) -> pa.DataType:
    return field.type if pa.types.is_null(field.type) else plain_type(field.type)


def read_parquet(file: SourceFile, layout: Layout, piece: Piece, schema: pa.Schema) -> pa.Table:
    """Read rows of one row group; batches before the slice are decoded and dropped, later ones not read."""
    wanted = [position for position, name in enumerate(layout.names) if name in schema.names]
    start, stop, group = piece.slice.start, piece.slice.stop, piece.slice.group
    with file.seekable() as stream:
        reader = pq.ParquetFile(stream)
        unique = len(set(layout.keys)) == len(layout.keys)
        names = [layout.keys[position] for position in wanted] if unique else None
        if start == 0:
            return _sound(_renamed(_first_rows(reader, group, names, stop), layout))[0]
        taken, seen = [], 0
        for batch in reader.iter_batches(
            batch_size=min(65536, max(1024, stop - start)), row_groups=[group], columns=names
        ):
            if seen + batch.num_rows > start:
                first = max(0, start - seen)
                taken.append(batch.slice(first, stop - seen - first))
            seen += batch.num_rows
            if seen >= stop:
                break
        return _sound(_renamed(pa.Table.from_batches(taken), layout))[0]


def _sound(table: pa.Table) -> tuple[pa.Table, list[str]]:
    """Check a table from outside: bytes in text columns that are not UTF-8 become U+FFFD, and are noted.

    Raises
    ------
    pyarrow.ArrowInvalid
        When the table is damaged otherwise, such as offsets that point outside of its buffers.
    """
    notes = []
    for index, field in enumerate(table.schema):
        column = table.column(index)
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            if not (pa.types.is_string(field.type) or pa.types.is_large_string(field.type)):
                raise
            raw = column.cast(pa.binary() if pa.types.is_string(field.type) else pa.large_binary())
            raw.validate(full=True)
            texts = [None if cell is None else cell.decode("utf-8", "replace") for cell in raw.to_pylist()]
            table = table.set_column(index, field.name, pa.array(texts, pa.string()))
            notes.append(f"column {field.name!r} holds bytes that are not UTF-8: read as U+FFFD")
    return table, notes


def _first_rows(reader: Any, group: int, names: list[str] | None, stop: int) -> pa.Table:
    if reader.metadata.row_group(group).num_rows <= stop:
        return reader.read_row_group(group, columns=names, use_threads=False)
    taken, seen = [], 0
    for batch in reader.iter_batches(batch_size=min(65536, stop), row_groups=[group], columns=names):
        taken.append(batch.slice(0, stop - seen))
        seen += batch.num_rows
        if seen >= stop:
            break
    return pa.Table.from_batches(taken)


def _renamed(table: pa.Table, layout: Layout) -> pa.Table:
    if len(set(layout.keys)) != len(layout.keys):
        return table.rename_columns(list(layout.names))
    name_of = dict(zip(layout.keys, layout.names, strict=True))
    return table.rename_columns([name_of[key] for key in table.column_names])


def probe_arrow(file: SourceFile, options: ReadOptions) -> Probe:
    """Take the schema and the rows of each record batch of an IPC file or stream."""
    cuts: list[Cut] = []
    first_row = 0
    with file.seekable() as stream:
        schema, batches = _batches(stream)
        layout, declared, notes = _layout("arrow", schema, options)
        for index, batch in enumerate(batches):
            notes += [note for note in _sound(pa.Table.from_batches([batch]))[1] if note not in notes]
            tokens = batch.nbytes // BYTES_PER_TOKEN
            cuts += row_cuts(
                batch.num_rows, tokens, options.limits, kind="row_group", group=index, first_row=first_row
            )
            first_row += batch.num_rows
    return Probe(declared, layout, tuple(cuts), tuple(notes))


def read_arrow(file: SourceFile, layout: Layout, piece: Piece, schema: pa.Schema) -> pa.Table:
    """Read rows of one record batch."""
    with file.seekable() as stream:
        _, batches = _batches(stream, only=piece.slice.group)
        table = _sound(pa.Table.from_batches([next(batches)]).rename_columns(list(layout.names)))[0]
    wanted = [name for name in layout.names if name in schema.names]
    return table.select(wanted).slice(piece.slice.start, piece.slice.stop - piece.slice.start)


def _batches(stream: BinaryIO, only: int | None = None) -> tuple[pa.Schema, Any]:
    if stream.read(6) == b"ARROW1":
        stream.seek(0)
        reader = pyarrow.ipc.open_file(stream)
        wanted = range(reader.num_record_batches) if only is None else [only]
        return reader.schema, (reader.get_batch(index) for index in wanted)
    stream.seek(0)
    flow = pyarrow.ipc.open_stream(stream)
    numbered = enumerate(flow)
    return flow.schema, (batch for index, batch in numbered if only is None or index == only)
