"""Read one partition: its pieces, in order, as one Arrow table of exactly the declared schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ..errors import ApwaError, SourceError, candidates
from .formats import DOCUMENTS
from .hive import folder_values
from .locate import Opener, identity, public_url
from .manifest import Manifest
from .pieces import FileInfo, Layout, Piece
from .readers.documents import DOCUMENT_SCHEMA
from .readers.registry import READERS
from .readers.source import SourceFile
from .scalars import text_to_type
from .schema import ROW_ID, conform

__all__ = ["read_partition", "read_pieces", "refuse_changed"]


def read_partition(
    manifest: Manifest,
    ordinal: int,
    *,
    columns: Sequence[str] | None = None,
    row_ids: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> pa.Table:
    """Read one partition.

    Parameters
    ----------
    manifest : Manifest
    ordinal : int
        From 0.
    columns : sequence of str, optional
        Only these, in this order.
    row_ids : bool, default False
        Add a first column ``_apwa_row``, string, ``"<file index>:<row in file>"``: the same row has the same
        id however the files are cut.
    storage_options : mapping, optional
        fsspec options of the source.

    Returns
    -------
    pyarrow.Table
        With exactly the declared schema, also when the partition is empty.

    Raises
    ------
    SourceError
        When a file is gone, changed since it was listed, is damaged, or holds a value that does not fit.
    """
    schema = _pruned(manifest.schema, columns)
    pieces = manifest.partitions[ordinal].pieces
    # Arrow tables without columns have no rows either: nothing is read, though ids are still made.
    table = read_pieces(manifest, pieces if schema.names else (), schema, storage_options=storage_options)
    if not row_ids:
        return table
    ids = [
        f"{piece.file}:{row}"
        for piece in pieces
        for row in range(piece.first_row, piece.first_row + piece.rows)
    ]
    columns = [pa.array(ids, pa.string()), *table.columns]
    return pa.Table.from_arrays(columns, schema=pa.schema([pa.field(ROW_ID, pa.string()), *schema]))


def read_pieces(
    manifest: Manifest,
    pieces: Sequence[Piece],
    schema: pa.Schema,
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> pa.Table:
    """Read any pieces of a manifest, in order, as one table of `schema`."""
    opener = Opener(storage_options)
    tables = [_read_piece(manifest, piece, schema, opener) for piece in pieces]
    return pa.concat_tables(tables) if tables else schema.empty_table()


def _pruned(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    if columns is None:
        return schema
    for name in columns:
        if name not in schema.names:
            raise SourceError(
                f"there is no column {name!r}",
                fix=candidates(name, schema.names, noun="columns"),
                code="SOURCE-COLUMN",
            )
    return pa.schema([schema.field(name) for name in columns])


def _read_piece(manifest: Manifest, piece: Piece, schema: pa.Schema, opener: Opener) -> pa.Table:
    info = manifest.files[piece.file]
    layout = manifest.layouts[info.layout]
    source = SourceFile(info.path, info.size, info.compression, lambda: opener.open(info.url))
    try:
        _refuse_changed(info, opener)
        if manifest.documents:
            return _as_documents(source, layout, piece).select(schema.names)
        physical = READERS[layout.format].read(source, layout, piece, schema)
        table = _with_rows(_with_folders(physical, schema, source, piece), schema, source, piece)
    except ApwaError:
        raise
    except Exception as error:
        # Any library behind a reader may raise anything on a damaged file; the user needs the file's name.
        raise SourceError(
            f"{info.path} cannot be read",
            where=public_url(info.url),
            why=reason_of(error),
            code="SOURCE-READ",
        ) from None
    if table.num_rows != piece.rows:
        raise SourceError(
            f"{info.path} holds {table.num_rows} rows where {piece.rows} were counted",
            where=public_url(info.url),
            why="the file changed since it was listed",
            fix="read the source again",
            code="SOURCE-CHANGED",
        )
    return table


def _with_folders(physical: pa.Table, schema: pa.Schema, source: SourceFile, piece: Piece) -> pa.Table:
    """Add the columns that the folders of the file's path state, where the file has none of that name."""
    rows = physical.num_rows if physical.num_columns else piece.rows
    present = set(physical.column_names)
    for name, value in folder_values(source.path).items():
        if name in present or name not in schema.names:
            continue
        cells = pa.array([value] * rows, pa.string())
        column = text_to_type(cells, schema.field(name), path=source.path, first_row=piece.first_row)
        physical = _append(physical, name, column)
    return physical


def _append(table: pa.Table, name: str, column: Any) -> pa.Table:
    if table.num_columns == 0:
        return pa.table({name: column})
    return table.append_column(name, column)


def _with_rows(physical: pa.Table, schema: pa.Schema, source: SourceFile, piece: Piece) -> pa.Table:
    if physical.num_columns > 0:
        return conform(physical, schema, path=source.path, first_row=piece.first_row)
    return pa.Table.from_arrays([pa.nulls(piece.rows, field.type) for field in schema], schema=schema)


def refuse_changed(
    manifest: Manifest, ordinal: int, storage_options: Mapping[str, Any] | None = None
) -> None:
    """Look whether the files of a partition are still those of the manifest.

    Raises
    ------
    SourceError
        One has changed, or is gone.
    """
    opener = Opener(storage_options)
    for number in dict.fromkeys(piece.file for piece in manifest.partitions[ordinal].pieces):
        info = manifest.files[number]
        try:
            _refuse_changed(info, opener)
        except FileNotFoundError:
            raise SourceError(
                f"{info.path} is gone",
                where=public_url(info.url),
                fix="read the source again",
                code="SOURCE-CHANGED",
            ) from None


def _refuse_changed(info: FileInfo, opener: Opener) -> None:
    size, etag, modified = identity(opener.info(info.url))
    same = etag == info.etag if etag and info.etag else (size, modified) == (info.size, info.modified)
    if not same:
        raise SourceError(
            f"{info.path} changed since it was listed",
            where=public_url(info.url),
            fix="read the source again; a run goes on with run.resume(on_change='redo')",
            code="SOURCE-CHANGED",
        )


def _as_documents(source: SourceFile, layout: Layout, piece: Piece) -> pa.Table:
    """Read rows as documents: a document as it is, a row of a table as the text of its text columns."""
    reader = READERS[layout.format].read
    if layout.format in DOCUMENTS:
        physical = reader(source, layout, piece, DOCUMENT_SCHEMA)
        return conform(physical, DOCUMENT_SCHEMA, path=source.path, first_row=piece.first_row)
    names = layout.text_columns or layout.names
    wanted = pa.schema([pa.field(name, pa.string()) for name in names])
    rows = _with_rows(reader(source, layout, piece, wanted), wanted, source, piece)
    texts = [row_text(row) for row in rows.to_pylist()]
    pages = range(piece.first_row, piece.first_row + len(texts))
    columns = {
        "path": [source.path] * len(texts),
        "page": list(pages),
        "text": texts,
        "media": [None] * len(texts),
    }
    return pa.table(columns, schema=DOCUMENT_SCHEMA)


def row_text(row: Mapping[str, str | None]) -> str | None:
    """Join the filled cells of a row as ``column: value`` lines; a single column is its bare value."""
    if len(row) == 1:
        return next(iter(row.values()))
    return "\n".join(f"{name}: {value}" for name, value in row.items() if value is not None) or None


def reason_of(error: BaseException) -> str:
    """Say in one bounded line why a file cannot be read."""
    if isinstance(error, ApwaError):
        return f"{error.what}; {error.fix}" if error.fix else error.what
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:300]}" if said else type(error).__name__
