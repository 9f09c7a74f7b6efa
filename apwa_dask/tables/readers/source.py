"""The file as a reader sees it: decompressed bytes on demand, nothing about URLs or credentials."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

import pyarrow as pa

from ..decoding import decompress, read_all
from ..pieces import Limits

__all__ = ["ReadOptions", "SourceFile"]

SAMPLE_BYTES = 256 * 1024


@dataclass(frozen=True)
class SourceFile:
    """A file to probe or read.

    Attributes
    ----------
    path : str
        What rows and errors call it.
    size : int
        Bytes on disk, compressed.
    compression : str
    open_raw : callable
        Opens the bytes on disk.
    """

    path: str
    size: int
    compression: str
    open_raw: Callable[[], BinaryIO] = field(repr=False)

    @contextmanager
    def stream(self) -> Iterator[BinaryIO]:
        """Open the decompressed bytes."""
        with self.open_raw() as raw:
            yield decompress(raw, self.compression)

    @contextmanager
    def seekable(self) -> Iterator[BinaryIO]:
        """Open the decompressed bytes for random access, in memory where the file is compressed."""
        if self.compression:
            yield io.BytesIO(self.read())
            return
        with self.open_raw() as raw:
            yield raw

    def read(self) -> bytes:
        """Return the whole decompressed content (bounded)."""
        with self.stream() as stream:
            return read_all(stream)

    def head(self, size: int = SAMPLE_BYTES) -> bytes:
        """Return the first decompressed bytes; fewer than `size` only when the file ends."""
        with self.stream() as stream:
            parts = []
            while size > 0 and (part := stream.read(size)):
                parts.append(part)
                size -= len(part)
            return b"".join(parts)


@dataclass(frozen=True)
class ReadOptions:
    """What the user said about reading, the same for every file.

    Attributes
    ----------
    schema : dict of str to pyarrow.DataType
        Declared column types, winning over inference.
    infer_bytes : int
        Types are inferred from a whole file up to this many decompressed bytes, else from this much of it.
    verify_bytes : int
        Parquet and Arrow files up to this size are read once while planning, so that damage is found early.
    """

    limits: Limits
    schema: dict[str, pa.DataType] = field(default_factory=dict)
    encoding: str | None = None
    delimiter: str | None = None
    header: bool | None = None
    pdf_rows: str = "page"
    infer_bytes: int = 64 << 20
    verify_bytes: int = 4 << 20
