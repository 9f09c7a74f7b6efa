"""A folder on any fsspec store, with only those operations that are safe on all of them.

The journal and the runs are built on these few promises: a file appears whole or not at all, `put_if_absent`
has one winner, and no answer comes from a cached listing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from apwa_dask.errors import StoreError
from apwa_dask.store.names import redact

__all__ = ["Entry", "Folder", "open_folder"]

LOCAL_PROTOCOLS = frozenset({"file", "local"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a folder, as an uncached listing shows it."""

    name: str
    size_bytes: int


class Folder(Protocol):
    """One folder. Names are relative and may contain ``/``.

    All methods block and may be called from several threads. Store errors come as `StoreError`, after
    transient ones were tried again; an absent file is `FileNotFoundError`.
    """

    is_local: bool

    @property
    def url(self) -> str:
        """Where it is, without credentials."""
        ...

    def child(self, name: str) -> Folder:
        """The folder `name` inside this one; not made until something is written to it."""
        ...

    def write(self, name: str, data: bytes, *, point: str = "write") -> None:
        """Make the file whole and durable, replacing what stood there. `point` names its kill points."""
        ...

    def put_if_absent(self, name: str, data: bytes, *, point: str = "put") -> bytes:
        """The content that stands at `name` afterwards: `data`, or what an earlier writer put there."""
        ...

    def read(self, name: str) -> bytes:
        """The file's content."""
        ...

    def read_many(self, names: Iterable[str]) -> Mapping[str, bytes]:
        """The content of those of `names` that exist."""
        ...

    def open(self, name: str) -> BinaryIO:
        """The file for random access reading."""
        ...

    def exists(self, name: str) -> bool: ...

    def entries(self) -> list[Entry]:
        """Files directly in this folder, sorted by name, fresh; empty where there is no such folder."""
        ...

    def folders(self) -> list[str]:
        """Names of the folders directly in this one, sorted, fresh."""
        ...

    def delete(self, name: str) -> None:
        """Remove one file; an absent one is fine."""
        ...

    def delete_tree(self) -> None:
        """Remove this folder and all that is in it."""
        ...

    def use_options(self, options: Mapping[str, Any]) -> None:
        """Reach the store with other options from now on (credentials expire), this folder and its children."""
        ...

    def sweep(self) -> None:
        """Remove temporary files that writers which died a day ago left in this folder."""
        ...


def open_folder(url: str, storage_options: Mapping[str, Any] | None = None) -> Folder:
    """The folder at `url`.

    Parameters
    ----------
    url : str
        A path or any fsspec URL. Chained URLs (``simplecache::s3://...``) are refused: a cache in between
        would answer with what was true before.
    storage_options : mapping, optional
        For the filesystem; kept in memory only.

    Raises
    ------
    StoreError
        Where the URL cannot be a store.
    """
    from fsspec.core import split_protocol

    if "::" in url:
        raise StoreError(
            "a chained URL cannot be a store",
            where=redact(url),
            why="commits would be decided from a cached copy",
            fix="name the store itself, such as s3://bucket/folder",
            code="STORE-URL",
        )
    protocol, _ = split_protocol(url)
    if protocol is None or protocol in LOCAL_PROTOCOLS:
        from apwa_dask.store.local_folder import LocalFolder

        return LocalFolder.at(url)
    from apwa_dask.store.remote_folder import RemoteFolder

    return RemoteFolder.at(url, storage_options or {})
