"""One immutable file of records, with a hash of the whole in its name; what is in it: `segment_format`.

The hash is SHA-256 of the content. With an HMAC key it is instead an HMAC over content, namespace and file
identity, so that a segment can neither be forged nor carried from one tenant to another.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from apwa_dask.store.record import KEY_BYTES, OK, Record
from apwa_dask.store.segment_format import (
    FORMAT_VERSION,
    BadSegmentError,
    SegmentFormat,
    format_of,
    replaces_of,
)

__all__ = [
    "UNREADABLE_WITHOUT_KEY",
    "Seal",
    "SegmentKeys",
    "SegmentName",
    "keys_of",
    "keys_of_batch",
    "prefixes_of",
]

UNREADABLE_WITHOUT_KEY = "signed, and no key was given"
_NAME = re.compile(
    r"seg-(?P<writer>[a-z0-9]{1,40})-(?P<sequence>[0-9]{8})-(?P<digest>[0-9a-f]{32})"
    r"(?P<signed>\.signed)?(?P<suffix>\.parquet|\.arrows)"
)

_OK = pa.scalar(OK)

Prefixes = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class SegmentName:
    """What a segment's file name says."""

    writer: str
    sequence: int
    digest: str
    is_signed: bool
    suffix: str
    """Of its format, such as ``".parquet"``."""

    def __str__(self) -> str:
        signed = ".signed" if self.is_signed else ""
        return f"seg-{self.writer}-{self.sequence:08d}-{self.digest}{signed}{self.suffix}"

    @property
    def format(self) -> SegmentFormat:
        """How to read it."""
        return format_of(self.suffix)

    @classmethod
    def parse(cls, name: str) -> SegmentName | None:
        """None where `name` is not a segment's."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        is_signed = match["signed"] is not None
        return cls(match["writer"], int(match["sequence"]), match["digest"], is_signed, match["suffix"])


class Seal:
    """Names segments by their content, and checks content against names."""

    def __init__(self, namespace: str, hmac_key: bytes | None) -> None:
        self._namespace, self._key = namespace.encode(), hmac_key

    def __repr__(self) -> str:
        return f"Seal(signed={self._key is not None})"

    def name(self, writer: str, sequence: int, data: bytes, suffix: str) -> str:
        """The file name under which `data`, of the format that `suffix` names, is to be stored."""
        digest = self._digest(writer, sequence, data)
        return str(SegmentName(writer, sequence, digest, self._key is not None, suffix))

    def refusal(self, name: SegmentName) -> str | None:
        """Why a file of this name is not even read; None where it may be."""
        if self._key is None and name.is_signed:
            return UNREADABLE_WITHOUT_KEY
        if self._key is not None and not name.is_signed:
            return "unsigned, and a key is set"
        return None

    def check(self, name: SegmentName, data: bytes) -> None:
        """Raise `BadSegmentError` unless `data` is what was stored under `name`."""
        if not hmac.compare_digest(self._digest(name.writer, name.sequence, data), name.digest):
            raise BadSegmentError(
                "wrong signature" if name.is_signed else "content differs from its checksum"
            )

    def _digest(self, writer: str, sequence: int, data: bytes) -> str:
        if self._key is None:
            return hashlib.sha256(data).hexdigest()[:32]
        identity = b"\0".join([FORMAT_VERSION, self._namespace, writer.encode(), str(sequence).encode(), b""])
        mac = hmac.new(self._key, identity, hashlib.sha256)
        mac.update(data)
        return mac.hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class SegmentKeys:
    """What the index needs of one segment: the served rows' key prefixes."""

    prefixes: Prefixes
    """First 8 bytes of each key, big-endian, of the rows that may be served."""
    rows: Rows
    """Their row numbers."""
    row_count: int
    """All rows, the failed ones too."""
    decoded_bytes: int
    """Memory that the whole segment takes, near enough."""

    replaces: tuple[str, ...] = ()
    """Names of the segments whose records this one took over."""


def prefixes_of(keys: Iterable[bytes]) -> Prefixes:
    """The keys' first 8 bytes as numbers."""
    return np.frombuffer(b"".join(key[:8] for key in keys), dtype=">u8").astype(np.uint64)


def keys_of(table: pa.Table, decoded_bytes: int) -> SegmentKeys:
    """The served keys of a segment's table, or of its key columns."""
    replaces = replaces_of(table)
    if table.num_rows == 0:
        return SegmentKeys(np.empty(0, np.uint64), np.empty(0, np.uint32), 0, decoded_bytes, replaces)
    keys, outcomes = _whole(table.column("key")), _whole(table.column("outcome"))
    words = np.frombuffer(keys.buffers()[1], dtype=">u8", count=4 * len(keys), offset=KEY_BYTES * keys.offset)
    rows = np.flatnonzero(pc.equal(outcomes, _OK).to_numpy(zero_copy_only=False)).astype(np.uint32)
    prefixes = words[::4].astype(np.uint64)
    if len(rows) < len(keys):
        prefixes = prefixes[rows]
    return SegmentKeys(prefixes, rows, len(keys), decoded_bytes, replaces)


def keys_of_batch(records: Sequence[Record], decoded_bytes: int) -> SegmentKeys:
    """What `keys_of` tells of the table of `records`; of a batch, in a fifth of the time without Arrow."""
    words = np.frombuffer(b"".join([record.key for record in records]), dtype=">u8")
    rows = [row for row, record in enumerate(records) if record.outcome == OK]
    prefixes = words[:: KEY_BYTES // 8].astype(np.uint64)
    if len(rows) < len(records):
        prefixes = prefixes[rows]
    return SegmentKeys(prefixes, np.array(rows, np.uint32), len(records), decoded_bytes)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
