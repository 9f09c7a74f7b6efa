"""Text, HTML, PDF, images and recordings: one row a file, or a page."""

from __future__ import annotations

import io
import logging
import math
import re
from typing import Any

import pyarrow as pa

from ...errors import SourceError
from ..decoding import detect_encoding
from ..pieces import Cut, Layout, Piece, Probe, Slice
from ..tokens import BYTES_PER_TOKEN, estimate_tokens
from .slicing import row_cuts
from .source import ReadOptions, SourceFile

__all__ = [
    "DOCUMENT_SCHEMA",
    "probe_audio",
    "probe_html",
    "probe_image",
    "probe_pdf",
    "probe_text",
    "read_html",
    "read_media",
    "read_pdf",
    "read_text",
]

DOCUMENT_SCHEMA = pa.schema(
    [("path", pa.string()), ("page", pa.int64()), ("text", pa.string()), ("media", pa.binary())]
)
"""Columns of a document table; `page` counts from 1 for PDF, and is the row number for rows of tables."""

_TEXT = pa.schema([("path", pa.string()), ("text", pa.string())])
_HTML = pa.schema([("path", pa.string()), ("title", pa.string()), ("text", pa.string())])
_PDF = pa.schema([("path", pa.string()), ("page", pa.int64()), ("text", pa.string())])
_MEDIA = pa.schema([("path", pa.string()), ("media", pa.binary())])

# An image costs a model some hundred to a thousand tokens, but weighs its bytes on the wire.
_MIN_IMAGE_TOKENS = 1000
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]+)", re.IGNORECASE)
_log = logging.getLogger(__name__)
_SILENT = logging.NullHandler()
_DROPPED_TAGS = ["script", "style", "noscript", "template", "svg"]


def _one_row(schema: pa.Schema, layout: Layout, tokens: int, *notes: str) -> Probe:
    return Probe(schema, layout, (Cut(Slice("all", 0, 1), 1, 0, max(1, tokens)),), tuple(filter(None, notes)))


def probe_text(file: SourceFile, options: ReadOptions) -> Probe:
    """Find the encoding of a text file; nothing at all is an empty file."""
    data = file.read()
    encoding, note = (options.encoding, "") if options.encoding else detect_encoding(data, complete=True)
    layout = Layout(format="text", encoding=encoding, names=("path", "text"), text_columns=("text",))
    if not data:
        return Probe(_TEXT, layout, (), ("no bytes at all",))
    return _one_row(_TEXT, layout, len(data) // BYTES_PER_TOKEN, note)


def read_text(file: SourceFile, layout: Layout, piece: Piece, schema: pa.Schema) -> pa.Table:
    """Read a whole text file into one row."""
    text = file.read().decode(layout.encoding, "replace").removeprefix("\ufeff")
    return _table(_TEXT, {"path": [file.path], "text": [text]})


def probe_html(file: SourceFile, options: ReadOptions) -> Probe:
    """Find the encoding of an HTML file: byte-order mark, then its own declaration, then a guess."""
    data = file.read()
    encoding, note = (options.encoding, "") if options.encoding else _html_encoding(data)
    layout = Layout(
        format="html", encoding=encoding, names=("path", "title", "text"), text_columns=("title", "text")
    )
    if not data:
        return Probe(_HTML, layout, (), ("no bytes at all",))
    _, text = _html_text(data.decode(encoding, "replace"))
    return _one_row(_HTML, layout, estimate_tokens(text), note, "" if text else "no visible text")


def _html_encoding(data: bytes) -> tuple[str, str]:
    declared = _CHARSET.search(data[:4096])
    encoding, note = detect_encoding(data, complete=True)
    if declared is None or not note:
        return encoding, note
    name = declared.group(1).decode("ascii")
    try:
        "".encode(name)
    except LookupError:
        return encoding, note
    return ("cp1252" if name.lower() in ("iso-8859-1", "latin-1", "us-ascii") else name), ""


def read_html(file: SourceFile, layout: Layout, piece: Piece, schema: pa.Schema) -> pa.Table:
    """Read the title and the visible text of an HTML file into one row."""
    title, text = _html_text(file.read().decode(layout.encoding, "replace"))
    return _table(_HTML, {"path": [file.path], "title": [title], "text": [text]})


def _html_text(markup: str) -> tuple[str | None, str]:
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(markup.removeprefix("\ufeff"))
    node = tree.css_first("title")
    title = node.text(strip=True) if node is not None else None
    tree.strip_tags(_DROPPED_TAGS)
    body = tree.body
    text = body.text(separator="\n", strip=True) if body is not None else ""
    return title or None, re.sub(r"\n{2,}", "\n", text)


def probe_pdf(file: SourceFile, options: ReadOptions) -> Probe:
    """Count the pages and read the first one, so that locked and damaged files are found now."""
    with file.seekable() as stream:
        pages = _pdf_pages(stream)
        count = len(pages)
        sample = pages[0].extract_text() if count else ""
    note = "" if sample.strip() else "no text on the first page: perhaps scanned images"
    layout = Layout(
        format="pdf", kind=options.pdf_rows, names=("path", "page", "text"), text_columns=("text",)
    )
    tokens = max(1, estimate_tokens(sample), math.ceil(file.size / max(1, count) / 200)) * count
    if count == 0:
        return Probe(_PDF, layout, (), ("no pages",))
    if options.pdf_rows == "document":
        return _one_row(_PDF, layout, tokens, note)
    cuts = row_cuts(count, tokens, options.limits, kind="pages")
    return Probe(_PDF, layout, tuple(cuts), tuple(filter(None, (note,))))


def _pdf_pages(stream: Any) -> Any:
    import pypdf

    # A library's duty: without a handler Python prints its warnings, a line for every odd font, to stderr.
    logging.getLogger("pypdf").addHandler(_SILENT)

    reader = pypdf.PdfReader(stream)
    if reader.is_encrypted and not reader.decrypt(""):
        raise SourceError("the PDF needs a password", fix="save a copy without one")
    return reader.pages


def read_pdf(file: SourceFile, layout: Layout, piece: Piece, schema: pa.Schema) -> pa.Table:
    """Read pages, one row each with page numbers from 1, or the whole document as one row with page null.

    A page whose text cannot be taken out is a row with null text, named in the log: it does not cost the
    other pages.
    """
    with file.seekable() as stream:
        pages = _pdf_pages(stream if file.compression else io.BytesIO(stream.read()))
        if layout.kind == "document":
            texts = [_page_text(pages, number, file.path) for number in range(len(pages))]
            text = "\n\n".join(filter(None, texts))
            return _table(_PDF, {"path": [file.path], "page": [None], "text": [text]})
        numbers = range(piece.slice.start, piece.slice.stop)
        texts = [_page_text(pages, number, file.path) for number in numbers]
    columns: dict[str, list[Any]] = {
        "path": [file.path] * len(texts),
        "page": [number + 1 for number in numbers],
        "text": texts,
    }
    return _table(_PDF, columns)


def _page_text(pages: Any, number: int, path: str) -> str | None:
    try:
        text: str = pages[number].extract_text()
    except Exception as error:
        # pypdf raises whatever a damaged content stream provokes; this page has no text, the next may.
        _log.warning("%s: no text from page %d (%s)", path, number + 1, type(error).__name__)
        return None
    return text.encode("utf-8", "replace").decode("utf-8")


def probe_image(file: SourceFile, options: ReadOptions) -> Probe:
    """Take an image as it is; its weight counts as tokens, so that partitions stay small in memory."""
    return _probe_media(file, Layout(format="image", names=("path", "media")), "an image")


def probe_audio(file: SourceFile, options: ReadOptions) -> Probe:
    """Take a recording as it is; its weight counts as tokens, as that of an image."""
    return _probe_media(file, Layout(format="audio", names=("path", "media")), "a recording")


def _probe_media(file: SourceFile, layout: Layout, what: str) -> Probe:
    if not file.head(16):
        raise SourceError(f"no bytes at all: not {what}")
    return _one_row(_MEDIA, layout, max(_MIN_IMAGE_TOKENS, file.size // BYTES_PER_TOKEN))


def read_media(file: SourceFile, layout: Layout, piece: Piece, schema: pa.Schema) -> pa.Table:
    """Read the bytes of an image or a recording into one row."""
    return _table(_MEDIA, {"path": [file.path], "media": [file.read()]})


def _table(schema: pa.Schema, columns: dict[str, list[Any]]) -> pa.Table:
    return pa.table(columns, schema=schema)
