"""From bytes on disk to UTF-8 text: decompression, encodings, streams with honest offsets."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
from typing import BinaryIO, cast

from ..errors import SourceError

__all__ = ["COMPRESSIONS", "decompress", "detect_compression", "detect_encoding", "read_all", "text_stream"]

COMPRESSIONS = {
    "gz": "gzip",
    "gzip": "gzip",
    "zst": "zstd",
    "zstd": "zstd",
    "bz2": "bz2",
    "xz": "xz",
    "lzma": "xz",
}
"""Suffix -> compression."""

_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz"}
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its first two bytes are the same
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# The legacy encodings people meet; an open list makes the guess worse on short texts.
_LEGACY = [
    "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "iso8859_7", "iso8859_2",
    "koi8_r", "shift_jis", "euc_jp", "gb18030", "big5", "euc_kr",
]  # fmt: skip
_WIDE = ("utf-16", "utf-32", "utf_16", "utf_32")
_MIN_BYTES_TO_GUESS = 256
MAX_WHOLE_FILE_BYTES = 1 << 30


def detect_compression(path: str, head: bytes) -> str:
    """Return the compression that the first bytes show, else the one that the suffix claims, else ""."""
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    return COMPRESSIONS.get(path.rsplit(".", 1)[-1].lower(), "") if "." in path else ""


def decompress(raw: BinaryIO, compression: str) -> BinaryIO:
    """Return a buffered stream of the decompressed bytes; several members or frames read as one."""
    if compression == "":
        return raw
    if compression == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw, mode="rb"))
    if compression == "bz2":
        return cast(BinaryIO, bz2.BZ2File(raw, "rb"))
    if compression == "xz":
        return cast(BinaryIO, lzma.LZMAFile(raw, "rb"))
    import zstandard

    reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
    return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, reader), 1 << 18))


def read_all(stream: BinaryIO, limit_bytes: int = MAX_WHOLE_FILE_BYTES) -> bytes:
    """Read a stream to its end, but never more than `limit_bytes`: a small archive can unpack to terabytes.

    Raises
    ------
    SourceError
        When the stream holds more.
    """
    data = stream.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise SourceError(
            f"the file holds more than {limit_bytes >> 20} MiB and its format must be read whole"
        )
    return data


def detect_encoding(sample: bytes, *, complete: bool) -> tuple[str, str]:
    """Guess the encoding of `sample`.

    Parameters
    ----------
    sample : bytes
        The first bytes of a file.
    complete : bool
        Whether the sample is the whole file; otherwise a character cut at its end is not held against it.

    Returns
    -------
    encoding, note : str
        The codec, and a sentence for the report ("" where the answer is certain).
    """
    for bom, encoding in _BOMS:
        if sample.startswith(bom):
            return encoding, ""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample, final=complete)
        if b"\x00" not in sample:
            return "utf-8", ""
    except UnicodeDecodeError:
        pass
    wide = _wide_without_bom(sample)
    if wide:
        return wide, f"encoding guessed: {wide}"
    encoding = _guess_legacy(sample)
    return encoding, f"not UTF-8; encoding guessed: {encoding}"


def _wide_without_bom(sample: bytes) -> str:
    even, odd = sample[0:4096:2].count(0), sample[1:4096:2].count(0)
    pairs = max(1, min(len(sample), 4096) // 2)
    if odd / pairs > 0.4 and even / pairs < 0.1:
        return "utf-16-le"
    if even / pairs > 0.4 and odd / pairs < 0.1:
        return "utf-16-be"
    return ""


def _guess_legacy(sample: bytes) -> str:
    foreign = sum(byte >= 0x80 for byte in sample[:65536])
    if len(sample) < _MIN_BYTES_TO_GUESS or foreign < 8:
        return "cp1252"
    from charset_normalizer import from_bytes

    matches = from_bytes(sample[:65536], cp_isolation=_LEGACY)
    best = matches.best()
    if best is None:
        return "cp1252"
    # Central European is a frequent wrong answer for Western text; where both fit, Western is commoner.
    western = best.encoding == "cp1250" and any(match.encoding == "cp1252" for match in matches)
    return "cp1252" if western else best.encoding


def is_wide(encoding: str) -> bool:
    """Whether line ends and quotes are more than one byte, so that byte offsets need recoding first."""
    return encoding.startswith(_WIDE)


def text_stream(raw: BinaryIO, encoding: str, terminator: str = "\n") -> BinaryIO:
    """Return a stream whose lines end in ``b"\\n"`` and whose quotes are single bytes.

    Encodings that extend ASCII pass unchanged (offsets are those of the decompressed file); UTF-16 and
    UTF-32 are recoded to UTF-8 (offsets are those of the recoded text).
    """
    if is_wide(encoding):
        raw = cast(BinaryIO, io.BufferedReader(_Recoded(raw, encoding), 1 << 18))
    if terminator == "\r":
        raw = cast(BinaryIO, io.BufferedReader(_NewLines(raw), 1 << 18))
    return raw


class _Recoded(io.RawIOBase):
    """UTF-16/32 bytes in, UTF-8 bytes out."""

    def __init__(self, source: BinaryIO, encoding: str) -> None:
        self._source = source
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._left = b""
        self._done = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._left and not self._done:
            chunk = self._source.read(1 << 18)
            self._done = not chunk
            self._left = self._decoder.decode(chunk, final=self._done).encode("utf-8", "replace")
        taken = min(len(buffer), len(self._left))
        buffer[:taken], self._left = self._left[:taken], self._left[taken:]
        return taken


class _NewLines(io.RawIOBase):
    """Old Macintosh line ends as line feeds, byte for byte, so that offsets stay true."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._source.read(len(buffer)).replace(b"\r", b"\n")
        buffer[: len(data)] = data
        return len(data)


def text_codec(encoding: str) -> str:
    """Return the codec of the bytes that `text_stream` yields."""
    return "utf-8" if is_wide(encoding) or encoding == "utf-8-sig" else encoding
