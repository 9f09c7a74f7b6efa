"""One immutable file of records: Parquet with page checksums, and a hash of the whole in its name.

The hash is SHA-256 of the content. With an HMAC key it is instead an HMAC over content, namespace and file
identity, so that a segment can neither be forged nor carried from one tenant to another.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apwa_dask.errors import StoreError
from apwa_dask.store.record import KEY_BYTES, OK, SCHEMA, completed, is_earlier

__all__ = [
    "CALL",
    "UNREADABLE_WITHOUT_KEY",
    "BadSegmentError",
    "Seal",
    "SegmentKeys",
    "SegmentName",
    "decode",
    "encode",
    "holds_run",
    "keys_of",
    "paid_in",
    "prefixes_of",
    "read_keys",
    "rows_where",
    "summed",
    "with_header",
]

UNREADABLE_WITHOUT_KEY = "signed, and no key was given"
FORMAT = b"apwa-journal/1"
_FORMAT_KEY, _REPLACES_KEY = b"apwa.format", b"apwa.replaces"
_NAME = re.compile(
    r"seg-(?P<writer>[a-z0-9]{1,40})-(?P<sequence>[0-9]{8})-(?P<digest>[0-9a-f]{32})(?P<signed>\.signed)?\.parquet"
)
CALL = ["step_id", "model", "outcome"]
_PAID = ["attempts", "input_tokens", "cached_tokens", "output_tokens", "cost_usd"]
_DICTIONARY_COLUMNS = ["outcome", "finish_reason", "model", "run_id", "step_id"]
# A hostile file may promise more than memory holds; ours are a hundredth of these.
_MAX_ROWS, _MAX_UNCOMPRESSED_BYTES = 5_000_000, 4 * 2**30

Prefixes = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.uint32]


class BadSegmentError(Exception):
    """A file that is not a segment we may serve from; the message says why. Never leaves this room."""


@dataclass(frozen=True, slots=True)
class SegmentName:
    """What a segment's file name says."""

    writer: str
    sequence: int
    digest: str
    is_signed: bool

    def __str__(self) -> str:
        suffix = ".signed.parquet" if self.is_signed else ".parquet"
        return f"seg-{self.writer}-{self.sequence:08d}-{self.digest}{suffix}"

    @classmethod
    def parse(cls, name: str) -> SegmentName | None:
        """None where `name` is not a segment's."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        return cls(match["writer"], int(match["sequence"]), match["digest"], match["signed"] is not None)


class Seal:
    """Names segments by their content, and checks content against names."""

    def __init__(self, namespace: str, hmac_key: bytes | None) -> None:
        self._namespace, self._key = namespace.encode(), hmac_key

    def __repr__(self) -> str:
        return f"Seal(signed={self._key is not None})"

    def name(self, writer: str, sequence: int, data: bytes) -> str:
        """The file name under which `data` is to be stored."""
        signed = self._key is not None
        return str(SegmentName(writer, sequence, self._digest(writer, sequence, data), signed))

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
        identity = b"\0".join([FORMAT, self._namespace, writer.encode(), str(sequence).encode(), b""])
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


def with_header(table: pa.Table, replaces: Sequence[str] = ()) -> pa.Table:
    """`table` (of `SCHEMA`) marked as a segment; `replaces` names those whose records it took over."""
    metadata = {_FORMAT_KEY: FORMAT}
    if replaces:
        metadata[_REPLACES_KEY] = orjson.dumps(list(replaces))
    return table.replace_schema_metadata(metadata)


def encode(table: pa.Table, *, is_final: bool = False) -> bytes:
    """The bytes of a segment, from a table that has its header.

    A batch of some hundred records is soon merged: LZ4, a quarter of the CPU of zstd for so small columns, both ways.
    What a merge writes is final, and packed tightly.
    """
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        compression="zstd" if is_final else "lz4",
        use_dictionary=_DICTIONARY_COLUMNS,
        write_page_checksum=True,
        write_statistics=False,
    )
    return sink.getvalue()


def decode(data: bytes) -> pa.Table:
    """The records of a segment whose checksum was verified, with all columns of `SCHEMA`.

    Raises
    ------
    BadSegmentError
        Where it is not a readable segment of ours.
    """
    try:
        return completed(_open(io.BytesIO(data)).read(use_threads=False), SCHEMA.names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadSegmentError(_brief(error)) from None


def read_keys(file: BinaryIO) -> SegmentKeys:
    """The keys of a segment, reading no other column.

    Raises
    ------
    BadSegmentError
        Where it is not a readable segment of ours.
    """
    table, decoded_bytes = _read_columns(file, ["key", "outcome"])
    return keys_of(table, decoded_bytes)


def holds_run(file: BinaryIO, run_id: str) -> bool:
    """Whether a segment has records of `run_id`, reading no other column."""
    table, _ = _read_columns(file, ["run_id"])
    return bool(pc.any(pc.equal(table.column("run_id"), run_id)).as_py())


def paid_in(file: BinaryIO, run_id: str) -> tuple[pa.Table, tuple[str, ...]]:
    """Attempts, tokens and cost of the records of `run_id`, summed by `CALL`, reading no text; and the names of
    the segments whose records this one took over. ``unpriced`` counts unknown costs.
    """
    table, _ = _read_columns(file, ["run_id", *CALL, *_PAID])
    mine = table.filter(pc.equal(table.column("run_id"), run_id)).select([*CALL, *_PAID])
    ones = pa.array(np.ones(mine.num_rows, np.int64))
    unpriced = pc.cast(pc.is_null(mine.column("cost_usd")), pa.int64())
    counted = mine.append_column("unpriced", unpriced).append_column("records", ones)
    return summed(counted.replace_schema_metadata(None)), _replaces(table)


def summed(paid: pa.Table) -> pa.Table:
    """One line for each step, model and outcome."""
    sums = [name for name in paid.column_names if name not in CALL]
    lines = paid.group_by(CALL, use_threads=False).aggregate([(name, "sum") for name in sums])
    return lines.select([*CALL, *(f"{name}_sum" for name in sums)]).rename_columns([*CALL, *sums])


def rows_where(file: BinaryIO, column: str, wanted: pa.Array | None) -> list[int]:
    """Numbers of the rows whose `column` is one of `wanted` (None: is not null), reading no other column."""
    table, _ = _read_columns(file, [column])
    values = table.column(column)
    mask = pc.is_valid(values) if wanted is None else pc.is_in(values, value_set=wanted)
    found: list[int] = pc.indices_nonzero(mask).to_pylist()
    return found


def keys_of(table: pa.Table, decoded_bytes: int) -> SegmentKeys:
    """The served keys of a segment's table, or of its key columns."""
    replaces = _replaces(table)
    if table.num_rows == 0:
        return SegmentKeys(np.empty(0, np.uint64), np.empty(0, np.uint32), 0, decoded_bytes, replaces)
    keys = pa.concat_arrays(table.column("key").chunks)
    words = np.frombuffer(keys.buffers()[1], dtype=">u8", count=4 * len(keys), offset=KEY_BYTES * keys.offset)
    rows = np.flatnonzero(pc.equal(table.column("outcome"), OK).to_numpy()).astype(np.uint32)
    return SegmentKeys(words[::4][rows].astype(np.uint64), rows, len(keys), decoded_bytes, replaces)


def _replaces(table: pa.Table) -> tuple[str, ...]:
    return tuple(orjson.loads((table.schema.metadata or {}).get(_REPLACES_KEY, b"[]")))


def _read_columns(file: BinaryIO, columns: list[str]) -> tuple[pa.Table, int]:
    try:
        parquet = _open(file)
        present = set(parquet.schema_arrow.names)
        # without one column Parquet does not say how many rows there are
        read = [name for name in columns if name in present] or ["key"]
        table = parquet.read(columns=read, use_threads=False)
        return completed(table, columns), _decoded_bytes(parquet)
    except StoreError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadSegmentError(_brief(error)) from None


def _open(file: BinaryIO) -> pq.ParquetFile:
    parquet = pq.ParquetFile(file, page_checksum_verification=True)
    schema = parquet.schema_arrow
    if (schema.metadata or {}).get(_FORMAT_KEY) != FORMAT or not is_earlier(schema):
        raise BadSegmentError("not a journal segment of this version")
    if parquet.metadata.num_rows > _MAX_ROWS or _decoded_bytes(parquet) > _MAX_UNCOMPRESSED_BYTES:
        raise BadSegmentError("larger than any segment of ours")
    return parquet


def _decoded_bytes(parquet: pq.ParquetFile) -> int:
    metadata = parquet.metadata
    return sum(int(metadata.row_group(group).total_byte_size) for group in range(metadata.num_row_groups))


def _brief(error: BaseException) -> str:
    return f"unreadable ({type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''})"
