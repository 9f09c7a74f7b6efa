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
from .asked import Asked
from .locate import Opener, identity
from .packing import coalesce
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
    asked : Asked, optional
        What was asked for, so that changes can be seen (`apwa_dask.tables.changes`). No part of the identity.
    """

    schema: pa.Schema
    partitions: tuple[Partition, ...]
    files: tuple[FileInfo, ...]
    layouts: tuple[Layout, ...]
    documents: bool = False
    asked: Asked | None = dataclasses.field(default=None, compare=False)

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
        """SHA-256, in hex, over file identities, slices and schema: equal when the same data is read."""
        return hashlib.sha256(orjson.dumps(self._content())).hexdigest()

    def partition_key(self, ordinal: int) -> str:
        """SHA-256, in hex, of one partition: its slices, the identity of their files, and the schema.

        Other files of the source may come, go or change without changing it.
        """
        pieces = self.partitions[ordinal].pieces
        read = [
            [
                _piece_fields(piece)[1:],
                dataclasses.astuple(dataclasses.replace(self.files[piece.file], layout=0)),
                self._layout_of(piece),
            ]
            for piece in pieces
        ]
        schema = base64.b64encode(self.schema.serialize().to_pybytes()).decode()
        return hashlib.sha256(orjson.dumps([read, schema, self.documents])).hexdigest()

    def coalesced(self) -> Manifest:
        """The same rows in the same order, with very many tiny partitions joined (`packing.coalesce`)."""
        partitions = coalesce(self.partitions)
        return (
            self if len(partitions) == self.npartitions else dataclasses.replace(self, partitions=partitions)
        )

    def _layout_of(self, piece: Piece) -> dict[str, Any]:
        return dataclasses.asdict(self.layouts[self.files[piece.file].layout])

    def __repr__(self) -> str:
        shape = f"{self.npartitions} partitions, {self.rows} rows, {len(self.schema)} columns"
        return f"Manifest({len(self.files)} files, {shape})"

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def encode(self) -> bytes:
        """The manifest as JSON, as `load` reads it; without options of the source."""
        asked = None if self.asked is None else self.asked.as_dict()
        return orjson.dumps({**self._content(), "asked": asked})

    def save(self, url: str, storage_options: Mapping[str, Any] | None = None) -> str:
        """Write the manifest into a folder and return its URL; the same content has the same name.

        Parameters
        ----------
        url : str
            A folder, any fsspec URL; or the exact name, ending in ``.json`` or ``.json.gz``.
        storage_options : mapping, optional
            For `url`. Neither these nor those of the source are written.
        """
        named = url.endswith((".json", ".json.gz"))
        target = url if named else f"{url.rstrip('/')}/{self.fingerprint[:32]}{_SUFFIX}"
        data = self.encode()
        if target.endswith(".gz"):
            data = gzip.compress(data, 6, mtime=0)
        options = dict(storage_options or {})
        if _is_local(target):
            options["auto_mkdir"] = True
        with fsspec.open(target, "wb", **options) as stream:
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
                data = stream.read()
            content = orjson.loads(gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data)
        except (OSError, orjson.JSONDecodeError, EOFError) as error:
            raise SourceError(
                "the list of partitions cannot be read",
                where=url,
                why=f"{type(error).__name__}",
                code="SOURCE-MANIFEST",
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
            "files": [list(dataclasses.astuple(file)) for file in self.files],
            "partitions": [
                [[_piece_fields(piece) for piece in partition.pieces], partition.est_tokens]
                for partition in self.partitions
            ],
        }

    @classmethod
    def _from_content(cls, content: dict[str, Any], url: str) -> Manifest:
        if content.get("version") != _VERSION:
            raise SourceError(
                f"the list of partitions has version {content.get('version')}, this is {_VERSION}",
                where=url,
                fix="read the source again with this version",
                code="SOURCE-MANIFEST",
            )
        return cls(
            schema=pa.ipc.read_schema(pa.py_buffer(base64.b64decode(content["schema"]))),
            documents=content["documents"],
            layouts=tuple(_layout(layout) for layout in content["layouts"]),
            files=tuple(FileInfo(*fields) for fields in content["files"]),
            partitions=tuple(
                _partition(ordinal, pieces, tokens)
                for ordinal, (pieces, tokens) in enumerate(content["partitions"])
            ),
            asked=Asked.from_dict(content["asked"]) if content.get("asked") else None,
        )


def _layout(fields: dict[str, Any]) -> Layout:
    for name in ("names", "keys", "text_columns"):
        fields[name] = tuple(fields[name])
    return Layout(**fields)


def _piece_fields(piece: Piece) -> list[Any]:
    part = piece.slice
    return [piece.file, part.kind, part.start, part.stop, part.group, piece.rows, piece.first_row]


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
