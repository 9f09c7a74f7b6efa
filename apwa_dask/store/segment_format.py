"""The two forms of a segment's content: an Arrow stream for a batch just paid for, Parquet for what is to stay.

A batch of some hundred records is written once, read once and merged: as Arrow that takes a tenth of the CPU of
Parquet, both ways. What a merge writes is final, and so is what is large: Parquet, packed tightly, of which single
columns can be read.

Who may write to the store may write a hostile file under the right checksum. The buffers of an Arrow stream are used
where they lie, so the whole is small, verified before it is parsed, refused where it is compressed (then nothing in
it can grow), and validated in full before a value of it is touched.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import BinaryIO, Protocol

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from apwa_dask.errors import StoreError
from apwa_dask.store.record import SCHEMA, completed, is_earlier

__all__ = [
    "ARROW",
    "FORMAT_VERSION",
    "LARGE",
    "MAX_ARROW_BYTES",
    "PACKED",
    "BadSegmentError",
    "Content",
    "SegmentFormat",
    "encode",
    "format_of",
    "replaces_of",
    "with_header",
]

FORMAT_VERSION = b"apwa-journal/1"
_FORMAT_KEY, _REPLACES_KEY = b"apwa.format", b"apwa.replaces"
MAX_ARROW_BYTES = 2**20
"""4 KiB for each record of a batch of the default size; what is larger is better packed."""
# A hostile file may promise more than memory holds; ours are a hundredth of these.
_MAX_ROWS, _MAX_UNCOMPRESSED_BYTES = 5_000_000, 4 * 2**30
_DICTIONARY_COLUMNS = ["outcome", "finish_reason", "model", "run_id", "step_id"]
_NEVER_NULL = [field.name for field in SCHEMA if not field.nullable]
_TOO_LARGE = "larger than any segment of ours"
_UNREADABLE = (pa.ArrowException, OSError, ValueError)


class BadSegmentError(Exception):
    """A file that is not a segment we may serve from; the message says why. Never leaves this room."""


class Content(Protocol):
    """Where a format finds the bytes of one segment."""

    @property
    def size_bytes(self) -> int: ...

    def open(self) -> BinaryIO:
        """The file for random access reading, not verified."""
        ...

    def verified(self) -> bytes:
        """All of it, checked against its name.

        Raises
        ------
        BadSegmentError
            Where it is not what was stored under this name.
        """
        ...


class SegmentFormat(Protocol):
    """One form of a segment's content. Errors of all methods that read: `BadSegmentError`."""

    suffix: str
    """Of the file's name."""

    def encode(self, table: pa.Table) -> bytes:
        """The bytes of `table`, which has its header."""
        ...

    def decode(self, data: bytes) -> pa.Table:
        """All records of verified `data`, with all columns of `SCHEMA`."""
        ...

    def columns(self, content: Content, names: Sequence[str]) -> tuple[pa.Table, int]:
        """The columns `names`, reading as little as can be trusted; and the memory that all of them would take."""
        ...


class _Parquet:
    """Parquet with page checksums, so that one column can be read and believed without the others."""

    suffix = ".parquet"

    def __init__(self, compression: str) -> None:
        self._compression = compression

    def encode(self, table: pa.Table) -> bytes:
        sink = io.BytesIO()
        pq.write_table(
            table,
            sink,
            compression=self._compression,
            use_dictionary=_DICTIONARY_COLUMNS,
            write_page_checksum=True,
            write_statistics=False,
        )
        return sink.getvalue()

    def decode(self, data: bytes) -> pa.Table:
        try:
            return completed(self._opened(io.BytesIO(data)).read(use_threads=False), SCHEMA.names)
        except _UNREADABLE as error:
            raise BadSegmentError(_brief(error)) from None

    def columns(self, content: Content, names: Sequence[str]) -> tuple[pa.Table, int]:
        try:
            with content.open() as file:
                parquet = self._opened(file)
                present = set(parquet.schema_arrow.names)
                # without one column Parquet does not say how many rows there are
                read = [name for name in names if name in present] or ["key"]
                table = parquet.read(columns=read, use_threads=False)
                return completed(table, names), _decoded_bytes(parquet)
        except (StoreError, FileNotFoundError):
            raise
        except _UNREADABLE as error:
            raise BadSegmentError(_brief(error)) from None

    def _opened(self, file: BinaryIO) -> pq.ParquetFile:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        _check_schema(parquet.schema_arrow)
        if parquet.metadata.num_rows > _MAX_ROWS or _decoded_bytes(parquet) > _MAX_UNCOMPRESSED_BYTES:
            raise BadSegmentError(_TOO_LARGE)
        return parquet


class _Arrow:
    """An Arrow IPC stream of one record batch, not compressed: both ways it copies next to nothing."""

    suffix = ".arrows"

    def encode(self, table: pa.Table) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table.combine_chunks())
        return bytes(sink.getvalue())

    def decode(self, data: bytes) -> pa.Table:
        if len(data) > MAX_ARROW_BYTES:
            raise BadSegmentError(_TOO_LARGE)
        try:
            messages = list(pa.ipc.MessageReader.open_stream(pa.py_buffer(data)))
            if [message.type for message in messages] != ["schema", "record batch"]:
                raise BadSegmentError("not one batch of records")
            schema = pa.ipc.read_schema(messages[0])
            _check_schema(schema)
            if _is_compressed(messages[1]):
                raise BadSegmentError("compressed, as no Arrow segment of ours")
            batch = pa.ipc.read_record_batch(messages[1], schema)
            batch.validate(full=True)
        except _UNREADABLE as error:
            raise BadSegmentError(_brief(error)) from None
        if any(batch.column(name).null_count for name in _NEVER_NULL):
            raise BadSegmentError("null where a value must be")  # Arrow's own validation lets it pass
        return completed(pa.Table.from_batches([batch]), SCHEMA.names)

    def columns(self, content: Content, names: Sequence[str]) -> tuple[pa.Table, int]:
        if content.size_bytes > MAX_ARROW_BYTES:
            raise BadSegmentError(_TOO_LARGE)
        return self.decode(content.verified()).select(list(names)), content.size_bytes


def _is_compressed(message: pa.ipc.Message) -> bool:
    """Whether a record batch says that its buffers are to be unpacked, which could fill any memory.

    pyarrow does not tell before it has done so. This follows the FlatBuffers of Message.fbs: of the root table the
    field ``header``, and of that the field ``compression``. Before V5 it stood elsewhere.
    """
    if message.metadata_version != pa.ipc.MetadataVersion.V5:
        return True
    data = memoryview(message.metadata)
    try:
        (root,) = struct.unpack_from("<I", data, 0)
        header = _flat_field(data, root, 2)
        (offset,) = struct.unpack_from("<I", data, header)
        return _flat_field(data, header + offset, 3) != 0
    except struct.error:
        raise BadSegmentError("unreadable (its metadata points outside of it)") from None


def _flat_field(data: memoryview, table: int, number: int) -> int:
    """Where field `number` of the FlatBuffers table at `table` lies; 0 where the table lacks it."""
    (back,) = struct.unpack_from("<i", data, table)
    (size,) = struct.unpack_from("<H", data, table - back)
    slot = 4 + 2 * number
    if slot >= size:
        return 0
    (offset,) = struct.unpack_from("<H", data, table - back + slot)
    return table + int(offset) if offset else 0


ARROW: SegmentFormat = _Arrow()
PACKED: SegmentFormat = _Parquet("zstd")
LARGE: SegmentFormat = _Parquet("lz4")
"""For batches too large for `ARROW`: a quarter of the CPU of zstd, until they are merged."""
_BY_SUFFIX = {known.suffix: known for known in (ARROW, PACKED)}


def format_of(suffix: str) -> SegmentFormat:
    """The format of files that end so."""
    return _BY_SUFFIX[suffix]


def encode(table: pa.Table, *, is_final: bool = False) -> tuple[bytes, SegmentFormat]:
    """`table`, which has its header, in the format that suits it; `is_final` where a merge has made it."""
    if is_final:
        return PACKED.encode(table), PACKED
    data = ARROW.encode(table)
    return (data, ARROW) if len(data) <= MAX_ARROW_BYTES else (LARGE.encode(table), LARGE)


def with_header(table: pa.Table, replaces: Sequence[str] = ()) -> pa.Table:
    """`table` (of `SCHEMA`) marked as a segment; `replaces` names those whose records it took over."""
    metadata = {_FORMAT_KEY: FORMAT_VERSION}
    if replaces:
        metadata[_REPLACES_KEY] = orjson.dumps(list(replaces))
    return table.replace_schema_metadata(metadata)


def replaces_of(table: pa.Table) -> tuple[str, ...]:
    """Names of the segments whose records this one took over, by its header."""
    text = (table.schema.metadata or {}).get(_REPLACES_KEY, b"[]")
    try:
        names = orjson.loads(text)
    except orjson.JSONDecodeError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadSegmentError("its header cannot be read")
    return tuple(names)


def _check_schema(schema: pa.Schema) -> None:
    if (schema.metadata or {}).get(_FORMAT_KEY) != FORMAT_VERSION or not is_earlier(schema):
        raise BadSegmentError("not a journal segment of this version")


def _decoded_bytes(parquet: pq.ParquetFile) -> int:
    metadata = parquet.metadata
    return sum(int(metadata.row_group(group).total_byte_size) for group in range(metadata.num_row_groups))


def _brief(error: BaseException) -> str:
    return f"unreadable ({type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''})"
