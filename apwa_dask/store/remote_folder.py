"""A folder on an object store or any other fsspec filesystem: bytes built first, then one put."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO, TypeVar, cast

from apwa_dask.errors import StoreError
from apwa_dask.store.folder import Entry
from apwa_dask.store.killpoints import reach
from apwa_dask.store.names import redact
from apwa_dask.store.trouble import store_error, with_retries

__all__ = ["RemoteFolder"]

T = TypeVar("T")

# fsspec's memory filesystem tests for existence and then writes; this makes it one step within the process.
_MEMORY_LOCK = threading.Lock()


class _Filesystem:
    """One fsspec filesystem, made on first use in each process: most are not fork-safe."""

    def __init__(self, url: str, storage_options: Mapping[str, Any]) -> None:
        self._url, self._options = url, dict(storage_options)
        self._pid, self._made = -1, cast(Any, None)
        self.is_probed = False

    def get(self) -> Any:
        if self._pid != os.getpid():
            from fsspec.core import url_to_fs

            fresh, _ = url_to_fs(self._url, **{"use_listings_cache": False, **self._options})
            self._made, self._pid = fresh, os.getpid()
        return self._made

    def use(self, options: Mapping[str, Any]) -> None:
        """Make the filesystem anew, on its next use, unless it has these options already."""
        if self._options != dict(options):
            self._options, self._pid = dict(options), -1

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            "a store's filesystem holds credentials and is never pickled; open the store again there"
        )


class RemoteFolder:
    """See `apwa_dask.store.folder.Folder`."""

    is_local = False

    def __init__(self, filesystem: _Filesystem, path: str, url: str, *, in_memory: bool) -> None:
        self._filesystem, self.path, self._url, self._in_memory = filesystem, path.rstrip("/"), url, in_memory

    @classmethod
    def at(cls, url: str, storage_options: Mapping[str, Any]) -> RemoteFolder:
        filesystem = _Filesystem(url, storage_options)
        shown = redact(url).rstrip("/")
        if any(mark in url for mark in "*?["):
            raise StoreError(
                "a pattern cannot be a store", where=shown, fix="name one folder", code="STORE-URL"
            )
        try:
            fs = filesystem.get()
            path = fs._strip_protocol(url)
        except (ImportError, ValueError) as error:
            raise StoreError(
                "this URL cannot be a store",
                where=shown,
                why=redact(str(error)),
                fix="name a local folder, or install the fsspec package for this kind of URL",
                code="STORE-URL",
            ) from None
        return cls(filesystem, str(path), shown, in_memory=url.startswith("memory:"))

    @property
    def url(self) -> str:
        return self._url

    def __repr__(self) -> str:
        return f"RemoteFolder({self._url!r})"

    @property
    def _fs(self) -> Any:
        return self._filesystem.get()

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}"

    def child(self, name: str) -> RemoteFolder:
        return RemoteFolder(
            self._filesystem, self._at(name), f"{self._url}/{name}", in_memory=self._in_memory
        )

    def write(self, name: str, data: bytes, *, point: str = "write") -> None:
        def put() -> None:
            reach(f"{point}.before_rename")
            self._fs.pipe_file(self._at(name), data)
            reach(f"{point}.after_rename")

        self._try_writing(name, put)

    def put_if_absent(self, name: str, data: bytes, *, point: str = "put") -> bytes:
        self._probe()
        return self._create(name, data, point)

    def _probe(self) -> None:
        """Make sure, once, that the store refuses a second put: some ignore the condition and overwrite."""
        if self._in_memory or self._filesystem.is_probed:
            return
        name = f".apwa-probe-{secrets.token_hex(8)}"
        try:
            first = self._create(name, b"1", "probe")
            second = self._create(name, b"2", "probe")
        except StoreError as error:
            if error.code in ("STORE-DENIED", "STORE-FULL"):
                raise
            first = second = b""
        finally:
            self.delete(name)
        if (first, second) != (b"1", b"1"):
            raise StoreError(
                "this store cannot hold runs",
                where=self._url,
                why="it has no put-if-absent (S3: If-None-Match), so two writers could not be told apart",
                fix="use a local folder, S3, Google Cloud Storage, Azure, or a recent S3-compatible server",
                code="STORE-CONDITIONAL",
            )
        self._filesystem.is_probed = True

    def _create(self, name: str, data: bytes, point: str) -> bytes:
        path = self._at(name)

        def create() -> bytes:
            reach(f"{point}.before_link")
            try:
                if self._in_memory:
                    with _MEMORY_LOCK:
                        self._fs.pipe_file(path, data, mode="create")
                else:
                    self._fs.pipe_file(path, data, mode="create")
            except FileExistsError:
                # Also where our own put succeeded and only its answer was lost: then this is our data.
                return bytes(self._fs.cat_file(path))
            reach(f"{point}.after_link")
            return data

        return self._try_writing(name, create)

    def read(self, name: str) -> bytes:
        return self._try("reading failed", name, lambda: bytes(self._fs.cat_file(self._at(name))))

    def read_many(self, names: Iterable[str]) -> Mapping[str, bytes]:
        paths = {self._at(name): name for name in names}
        if not paths:
            return {}
        # The filesystem reads them concurrently; trouble with one is retried on its own.
        answers = self._try("reading failed", "", lambda: self._fs.cat(list(paths), on_error="return"))
        contents: dict[str, bytes] = {}
        for path, name in paths.items():
            answer = answers.get(path)
            if isinstance(answer, FileNotFoundError):
                continue
            try:
                contents[name] = answer if isinstance(answer, bytes) else self.read(name)
            except FileNotFoundError:
                continue
        return contents

    def open(self, name: str) -> BinaryIO:
        return self._try("reading failed", name, lambda: cast(BinaryIO, self._fs.open(self._at(name), "rb")))

    def exists(self, name: str) -> bool:
        def known() -> bool:
            self._forget_listings()
            return bool(self._fs.exists(self._at(name)))

        return self._try("reading failed", name, known)

    def entries(self) -> list[Entry]:
        return sorted(
            (Entry(name, int(info.get("size") or 0)) for name, info in self._listed("file") if name),
            key=lambda entry: entry.name,
        )

    def folders(self) -> list[str]:
        return sorted(name for name, _ in self._listed("directory") if name)

    def _listed(self, kind: str) -> list[tuple[str, Mapping[str, Any]]]:
        def ls() -> list[Mapping[str, Any]]:
            self._forget_listings()
            try:
                return list(self._fs.ls(self.path, detail=True))
            except FileNotFoundError:
                return []

        infos = self._try("listing failed", "", ls)
        return [
            (str(info["name"]).rstrip("/").rsplit("/", 1)[-1], info)
            for info in infos
            # Some stores list the folder's own marker object among its content.
            if info.get("type") == kind and str(info["name"]).strip("/") != self.path.strip("/")
        ]

    def delete(self, name: str) -> None:
        def remove() -> None:
            try:
                self._fs.rm_file(self._at(name))
            except FileNotFoundError:
                return

        self._try("deleting failed", name, remove)

    def delete_tree(self) -> None:
        def remove() -> None:
            self._forget_listings()
            try:
                self._fs.rm(self.path, recursive=True)
            except FileNotFoundError:
                return

        self._try("deleting failed", "", remove)

    def use_options(self, options: Mapping[str, Any]) -> None:
        self._filesystem.use(options)

    def sweep(self) -> None:
        return  # an object appears whole or not at all: there are no temporary ones

    def _forget_listings(self) -> None:
        # Also where the caller's storage_options turned a listings cache on: another process's objects count.
        self._fs.invalidate_cache(self.path)

    def _try_writing(self, name: str, operation: Callable[[], T]) -> T:
        try:
            return self._try("writing failed", name, operation)
        except FileNotFoundError as error:  # no such bucket
            raise store_error(error, "writing failed", f"{self._url}/{name}") from None

    def _try(self, what: str, name: str, operation: Callable[[], T]) -> T:
        try:
            return with_retries(operation)
        except (FileNotFoundError, StoreError):
            raise
        except Exception as error:  # every filesystem has its own family of errors
            raise store_error(error, what, f"{self._url}/{name}".rstrip("/")) from None
