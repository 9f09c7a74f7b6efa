"""The manifest: which slice of which file is which partition. It is saved once and read by ordinal."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import fsspec
import orjson
import pyarrow as pa

from ..errors import SourceError
from .locate import Opener, identity
from .pieces import FileInfo, Layout, Partition, Piece, Slice

__all__ = ["Manifest"]

_VERSION = 1
_SUFFIX = ".manifest.json.gz"
_CACHED_MANIFESTS = 8


@dataclasses.dataclass(frozen=True)
class Manifest:
    """All partitions of one source.

    Attributes
    ----------
    schema : pyarrow.Schema
        Columns and types of every partition, also of an empty one.
    partitions : tuple of Partition
    files : tuple of FileInfo
    layouts : tuple of Layout
        How the files are read, shared between files.
    documents : bool
        Whether rows are read as documents (path, page, text, media).
    """

    schema: pa.Schema
    partitions: tuple[Partition, ...]
    files: tuple[FileInfo, ...]
    layouts: tuple[Layout, ...]
    documents: bool = False

    @property
    def npartitions(self) -> int:
        """Number of partitions, at least 1."""
        return len(self.partitions)

    @cached_property
    def rows(self) -> int:
        """Number of rows, exact: files are counted when they are cut."""
        return sum(partition.rows for partition in self.partitions)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, over file identities, slices and schema: equal when the same data would be read."""
        return hashlib.sha256(orjson.dumps(self._content())).hexdigest()

    def __repr__(self) -> str:
        return f"Manifest({len(self.files)} files, {self.npartitions} partitions, {self.rows} rows, {len(self.schema)} columns)"

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def save(self, url: str, storage_options: Mapping[str, Any] | None = None) -> str:
        """Write the manifest into a folder and return its URL; the same content has the same name.

        Parameters
        ----------
        url : str
            A folder, any fsspec URL; or the exact name, ending in ``.manifest.json.gz``.
        storage_options : mapping, optional
            For `url`. Neither these nor those of the source are written.
        """
        target = url if url.endswith(_SUFFIX) else f"{url.rstrip('/')}/{self.fingerprint[:32]}{_SUFFIX}"
        data = gzip.compress(orjson.dumps(self._content()), 6, mtime=0)
        with fsspec.open(target, "wb", auto_mkdir=True, **dict(storage_options or {})) if _is_local(target) else fsspec.open(
            target, "wb", **dict(storage_options or {})
        ) as stream:
            stream.write(data)
        return target

    @classmethod
    def load(cls, url: str, storage_options: Mapping[str, Any] | None = None) -> Manifest:
        """Read a saved manifest; the last few are kept in memory per process, and checked for being current.

        Raises
        ------
        SourceError
            When there is none at `url`, or it cannot be understood.
        """
        opener = Opener(storage_options)
        try:
            key = (url, *identity(opener.info(url)))
            known = _cache.get(key)
            if known is not None:
                return known
            with opener.open(url) as stream:
                content = orjson.loads(gzip.decompress(stream.read()))
        except (OSError, orjson.JSONDecodeError, EOFError) as error:
            raise SourceError(
                "the list of partitions cannot be read", where=url, why=f"{type(error).__name__}", code="SOURCE-MANIFEST"
            ) from None
        manifest = cls._from_content(content, url)
        _cache.put(key, manifest)
        return manifest

    def _content(self) -> dict[str, Any]:
        return {
            "version": _VERSION,
            "schema": base64.b64encode(self.schema.serialize().to_pybytes()).decode(),
            "documents": self.documents,
            "layouts": [dataclasses.asdict(layout) for layout in self.layouts],
            "files": [
                [f.url, f.path, f.size, f.etag, f.modified, f.compression, f.layout] for f in self.files
            ],
            "partitions": [
                [
                    [
                        [p.file, p.slice.kind, p.slice.start, p.slice.stop, p.slice.group, p.rows, p.first_row]
                        for p in partition.pieces
                    ],
                    partition.est_tokens,
                ]
                for partition in self.partitions
            ],
        }  # fmt: skip

    @classmethod
    def _from_content(cls, content: dict[str, Any], url: str) -> Manifest:
        if content.get("version") != _VERSION:
            raise SourceError(
                f"the list of partitions has version {content.get('version')}, this is {_VERSION}",
                where=url,
                fix="read the source again with this version",
                code="SOURCE-MANIFEST",
            )
        lists = ("names", "keys", "text_columns")
        return cls(
            schema=pa.ipc.read_schema(pa.py_buffer(base64.b64decode(content["schema"]))),
            documents=content["documents"],
            layouts=tuple(
                Layout(**{key: tuple(value) if key in lists else value for key, value in layout.items()})
                for layout in content["layouts"]
            ),
            files=tuple(FileInfo(*fields) for fields in content["files"]),
            partitions=tuple(
                _partition(ordinal, pieces, tokens) for ordinal, (pieces, tokens) in enumerate(content["partitions"])
            ),
        )


def _partition(ordinal: int, rows: list[list[Any]], est_tokens: int) -> Partition:
    pieces = tuple(Piece(row[0], Slice(*row[1:5]), row[5], row[6]) for row in rows)
    return Partition(ordinal, pieces, sum(piece.rows for piece in pieces), est_tokens)


def _is_local(url: str) -> bool:
    return "://" not in url or url.startswith("file://")


class _Cache:
    """The manifests this process used last; bounded, safe between threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Any, ...], Manifest] = OrderedDict()

    def get(self, key: tuple[Any, ...]) -> Manifest | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: tuple[Any, ...], manifest: Manifest) -> None:
        with self._lock:
            self._kept[key] = manifest
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)


_cache = _Cache(_CACHED_MANIFESTS)
