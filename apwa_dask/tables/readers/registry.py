"""Which reader knows which format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from ..pieces import Layout, Piece, Probe
from . import columnar, delimited, documents, json_files
from .source import ReadOptions, SourceFile

__all__ = ["READERS", "Reader"]


@dataclass(frozen=True, slots=True)
class Reader:
    """A format's two functions: learn the shape of a file; read one slice of it."""

    probe: Callable[[SourceFile, ReadOptions], Probe]
    read: Callable[[SourceFile, Layout, Piece, pa.Schema], pa.Table]


READERS: dict[str, Reader] = {
    "parquet": Reader(columnar.probe_parquet, columnar.read_parquet),
    "arrow": Reader(columnar.probe_arrow, columnar.read_arrow),
    "csv": Reader(delimited.probe, delimited.read),
    "json": Reader(json_files.probe_json, json_files.read_json),
    "jsonl": Reader(json_files.probe_lines, json_files.read_lines),
    "text": Reader(documents.probe_text, documents.read_text),
    "html": Reader(documents.probe_html, documents.read_html),
    "pdf": Reader(documents.probe_pdf, documents.read_pdf),
    "image": Reader(documents.probe_image, documents.read_media),
    "audio": Reader(documents.probe_audio, documents.read_media),
}
