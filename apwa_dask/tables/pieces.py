"""What travels out of the reading room: small frozen records, no file contents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Cut", "FileInfo", "Layout", "Limits", "Partition", "Piece", "Probe", "Slice"]

SliceKind = Literal["all", "rows", "bytes", "row_group", "pages"]


@dataclass(frozen=True, slots=True)
class Slice:
    """The part of a file that a piece covers; `stop` is exclusive.

    ``bytes`` counts bytes of the decompressed stream; ``rows`` and ``pages`` count from 0; ``row_group``
    is rows `start` to `stop` of Parquet row group (or Arrow record batch) `group`.
    """

    kind: SliceKind
    start: int = 0
    stop: int = 0
    group: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """One slice of one file.

    Attributes
    ----------
    file : int
        Index into ``Manifest.files``.
    slice : Slice
    rows : int
        Rows that the slice holds.
    first_row : int
        Offset of its first row inside the file; the base of stable row ids.
    """

    file: int
    slice: Slice
    rows: int
    first_row: int


@dataclass(frozen=True, slots=True)
class Partition:
    """What one task reads: a few pieces, in order."""

    ordinal: int
    pieces: tuple[Piece, ...]
    rows: int
    est_tokens: int


@dataclass(frozen=True, slots=True)
class Layout:
    """How to read the files of one kind: found once by probing, then shared by all of them.

    Attributes
    ----------
    format : str
        ``parquet arrow csv json jsonl text html pdf image audio``.
    kind : str
        Variant: ``records``, ``object`` or ``values`` for JSON, ``page`` or ``document`` for PDF.
    encoding, delimiter, terminator : str
        Of the text; `terminator` is ``"\\n"`` (also for CRLF) or ``"\\r"``.
    quoted : bool
        Whether double quotes delimit cells, or are ordinary characters.
    names : tuple of str
        Column names in the order of the file, made unique.
    keys : tuple of str
        The names as the file spells them.
    text_columns : tuple of str
        Columns that make up the text when rows are read as documents.
    surplus : bool
        Whether some rows hold more cells than there are names (kept in column ``_extra``).
    whole : bool
        Whether the schema was inferred from the whole file, not from a sample.
    """

    format: str
    kind: str = ""
    encoding: str = "utf-8"
    delimiter: str = ""
    terminator: str = "\n"
    quoted: bool = True
    names: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    text_columns: tuple[str, ...] = ()
    surplus: bool = False
    whole: bool = True


@dataclass(frozen=True, slots=True)
class FileInfo:
    """Identity of one file: enough to open it and to notice that it changed.

    `url` never holds user names or passwords. `path` is what a reader sees: relative to the folder, glob or
    archive that was named. `etag` and `modified` are whatever the file system offers, as text; `checksum` is of
    the content, where there is no etag.
    """

    url: str
    path: str
    size: int
    etag: str
    modified: str
    compression: str
    layout: int
    checksum: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds of a partition; a single row may pass `tokens`."""

    rows: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Cut:
    """A slice found by a reader, small enough to be a partition of its own."""

    slice: Slice
    rows: int
    first_row: int
    est_tokens: int


@dataclass(frozen=True, slots=True)
class Probe:
    """What a reader learns of one file without keeping its contents."""

    schema: pa.Schema
    layout: Layout
    cuts: tuple[Cut, ...]
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Rows of the file."""
        return sum(cut.rows for cut in self.cuts)
