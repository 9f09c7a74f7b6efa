"""Which format a file has: by what its first bytes prove, then by suffix, then by how its text looks."""

from __future__ import annotations

from pathlib import PurePosixPath

from ..errors import SourceError
from .decoding import COMPRESSIONS, detect_encoding, text_codec

__all__ = ["DOCUMENTS", "FORMATS", "detect_format"]

BY_SUFFIX = {
    "parquet": "parquet", "parq": "parquet", "pq": "parquet",
    "arrow": "arrow", "feather": "arrow", "ipc": "arrow",
    "csv": "csv", "tsv": "csv", "tab": "csv", "psv": "csv", "ssv": "csv",
    "json": "json", "geojson": "json", "jsonl": "jsonl", "ndjson": "jsonl",
    "txt": "text", "text": "text", "md": "text", "markdown": "text", "rst": "text", "log": "text",
    "html": "html", "htm": "html", "xhtml": "html", "pdf": "pdf",
    "png": "image", "jpg": "image", "jpeg": "image", "gif": "image", "webp": "image", "bmp": "image",
    "tif": "image", "tiff": "image", "wav": "audio", "mp3": "audio", "zip": "zip",
}  # fmt: skip
"""Suffix -> format."""

FORMATS = tuple(dict.fromkeys(BY_SUFFIX.values()))
DOCUMENTS = ("text", "html", "pdf", "image", "audio")
"""Formats whose files are rows as they are."""
DELIMITER_OF_SUFFIX = {"tsv": "\t", "tab": "\t", "psv": "|", "ssv": ";"}

_OTHER_SUFFIXES = (
    "docx",
    "xlsx",
    "pptx",
    "odt",
    "ods",
    "epub",
    "xls",
    "doc",
    "tar",
    "tgz",
    "7z",
    "rar",
    "sz",
    "zlib",
    "br",
    "lz4",
)
_PROOFS = (
    (b"PAR1", "parquet"),
    (b"PARE", "parquet"),
    (b"ARROW1", "arrow"),
    (b"%PDF-", "pdf"),
    (b"\x89PNG\r\n", "image"),
    (b"\xff\xd8\xff", "image"),
    (b"GIF8", "image"),
    (b"II*\x00", "image"),
    (b"MM\x00*", "image"),
    (b"ID3", "audio"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
)


def suffixes(path: str) -> list[str]:
    """Return the suffixes of a file name, the last first, without those of compression."""
    parts = [part.lstrip(".").lower() for part in reversed(PurePosixPath(path).suffixes)]
    return [part for part in parts if part not in COMPRESSIONS]


def detect_format(path: str, head: bytes) -> str:
    """Return the format of a file.

    Parameters
    ----------
    path : str
    head : bytes
        The first bytes, decompressed.

    Raises
    ------
    SourceError
        When no reader knows it.
    """
    found = suffixes(path)
    if found and found[0] in _OTHER_SUFFIXES:
        raise SourceError(
            f"no reader for .{found[0]} files", fix="convert it, or name its format: format='text'"
        )
    proof = _proven(head)
    if proof:
        return proof
    named = next((BY_SUFFIX[suffix] for suffix in found if suffix in BY_SUFFIX), "")
    if named == "zip" and head:
        raise SourceError("not a zip archive although named so")
    return named or _by_looks(head)


def _proven(head: bytes) -> str:
    for magic, name in _PROOFS:
        if head.startswith(magic):
            return name
    return {b"WEBP": "image", b"WAVE": "audio"}.get(head[8:12], "") if head.startswith(b"RIFF") else ""


def _by_looks(head: bytes) -> str:
    encoding, _ = detect_encoding(head, complete=False)
    text = head.decode(encoding if encoding.startswith("utf-16") else text_codec(encoding), "replace").lstrip(
        "\ufeff \t\r\n"
    )
    control = sum(char < " " and char not in "\t\r\n\f" for char in text[:4096])
    if control > len(text[:4096]) / 50:
        raise SourceError("format not recognised: binary content", fix="name it: format='parquet', ...")
    start = text[:512].lower()
    if start.startswith(("<!doctype html", "<html", "<head", "<body")):
        return "html"
    if text.startswith("{") and text.splitlines()[0].rstrip().endswith("}") and len(text.splitlines()) > 1:
        return "jsonl"
    if text.startswith(("{", "[")):
        return "json"
    return "csv" if _looks_delimited(text) else "text"


def _looks_delimited(text: str) -> bool:
    lines = [line for line in text.splitlines()[:50] if line.strip()]
    if len(lines) < 3:
        return False
    lines = lines[:-1]
    for delimiter in "\t;|,":
        counts = {line.count(delimiter) for line in lines}
        if len(counts) == 1 and counts != {0}:
            return True
    return False
