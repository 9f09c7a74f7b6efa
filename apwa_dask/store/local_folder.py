"""A folder on a local or mounted disk: temp file, fsync, rename; files 0600, folders 0700."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from apwa_dask.errors import StoreError
from apwa_dask.store.folder import Entry
from apwa_dask.store.killpoints import reach
from apwa_dask.store.trouble import store_error, with_retries

__all__ = ["LocalFolder"]

T = TypeVar("T")

TEMP_PREFIX = ".tmp-"
FILE_MODE, FOLDER_MODE = 0o600, 0o700
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
# Far longer than any write takes, and than clocks of two machines differ.
_ABANDONED_S = 24 * 3600.0
_NO_LINK_ERRNOS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class LocalFolder:
    """See `apwa_dask.store.folder.Folder`."""

    is_local = True

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def at(cls, url: str) -> LocalFolder:
        from fsspec.implementations.local import LocalFileSystem

        return cls(Path(LocalFileSystem._strip_protocol(url)))

    @property
    def url(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"LocalFolder({self.url!r})"

    def child(self, name: str) -> LocalFolder:
        return LocalFolder(self.path / name)

    def write(self, name: str, data: bytes, *, point: str = "write") -> None:
        target = self.path / name

        def replace() -> None:
            temp = self._write_temp(target, data, point)
            try:
                reach(f"{point}.before_rename")
                os.replace(temp, target)
            except OSError:
                temp.unlink(missing_ok=True)
                raise
            reach(f"{point}.after_rename")
            _sync_folder(target.parent)

        self._try_writing(target, replace)

    def put_if_absent(self, name: str, data: bytes, *, point: str = "put") -> bytes:
        target = self.path / name

        def create() -> bytes:
            temp = self._write_temp(target, data, point)
            reach(f"{point}.before_link")
            try:
                _link_new(temp, target)
            except FileExistsError:
                return target.read_bytes()
            finally:
                temp.unlink(missing_ok=True)
            reach(f"{point}.after_link")
            _sync_folder(target.parent)
            return data

        return self._try_writing(target, create)

    def read(self, name: str) -> bytes:
        target = self.path / name
        return self._try("reading failed", target, target.read_bytes)

    def read_many(self, names: Iterable[str]) -> Mapping[str, bytes]:
        contents: dict[str, bytes] = {}
        for name in names:
            try:
                contents[name] = self.read(name)
            except FileNotFoundError:
                continue
        return contents

    def open(self, name: str) -> BinaryIO:
        target = self.path / name
        return self._try("reading failed", target, lambda: target.open("rb"))

    def exists(self, name: str) -> bool:
        target = self.path / name
        return self._try("reading failed", target, target.exists)

    def entries(self) -> list[Entry]:
        return self._try("listing failed", self.path, self._entries)

    def _entries(self) -> list[Entry]:
        found: list[Entry] = []
        try:
            with os.scandir(self.path) as items:
                for item in items:
                    if item.name.startswith(TEMP_PREFIX) or not item.is_file(follow_symlinks=False):
                        continue
                    try:
                        found.append(Entry(item.name, item.stat(follow_symlinks=False).st_size))
                    except FileNotFoundError:
                        continue  # deleted by another process since the listing began
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(found, key=lambda entry: entry.name)

    def folders(self) -> list[str]:
        def listed() -> list[str]:
            try:
                with os.scandir(self.path) as items:
                    return sorted(item.name for item in items if item.is_dir(follow_symlinks=False))
            except (FileNotFoundError, NotADirectoryError):
                return []

        return self._try("listing failed", self.path, listed)

    def delete(self, name: str) -> None:
        target = self.path / name
        self._try("deleting failed", target, lambda: target.unlink(missing_ok=True))

    def delete_tree(self) -> None:
        def remove() -> None:
            try:
                shutil.rmtree(self.path)
            except FileNotFoundError:
                if self.path.exists():  # a file vanished under rmtree: another process is at it too
                    shutil.rmtree(self.path, ignore_errors=True)

        self._try("deleting failed", self.path, remove)

    def use_options(self, options: Mapping[str, Any]) -> None:
        return  # a disk knows no options

    def sweep(self) -> None:
        for item in self.path.glob(f"{TEMP_PREFIX}*"):
            try:
                if time.time() - item.stat().st_mtime > _ABANDONED_S:
                    item.unlink()
            except FileNotFoundError:
                continue

    def _write_temp(self, target: Path, data: bytes, point: str) -> Path:
        """A durable temporary file beside `target`: a rename to another device would be a copy."""
        folder = target.parent
        temp = folder / f"{TEMP_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
        try:
            descriptor = os.open(temp, _NEW_FILE, FILE_MODE)
        except FileNotFoundError:  # the first file of this folder
            _make_private(folder)
            descriptor = os.open(temp, _NEW_FILE, FILE_MODE)
        try:
            view = memoryview(data)
            half = len(view) // 2
            _write_all(descriptor, view[:half])
            reach(f"{point}.half_written")
            _write_all(descriptor, view[half:])
            os.fsync(descriptor)
        except OSError:
            os.close(descriptor)
            temp.unlink(missing_ok=True)
            raise
        os.close(descriptor)
        return temp

    def _try_writing(self, where: Path, operation: Callable[[], T]) -> T:
        try:
            return self._try("writing failed", where, operation)
        except FileNotFoundError as error:  # the folder was deleted meanwhile
            raise store_error(error, "writing failed", str(where)) from None

    def _try(self, what: str, where: Path, operation: Callable[[], T]) -> T:
        try:
            return with_retries(operation)
        except (FileNotFoundError, StoreError):
            raise
        except OSError as error:
            raise store_error(error, what, str(where)) from None


def _write_all(descriptor: int, view: memoryview) -> None:
    while view:
        view = view[os.write(descriptor, view) :]


def _make_private(folder: Path) -> None:
    """Make `folder` and its missing parents, all 0700; folders that exist keep the mode their owner gave."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for item in reversed(missing):
        try:
            item.mkdir(mode=FOLDER_MODE)
        except FileExistsError:
            continue
        _sync_folder(item.parent)


def _sync_folder(folder: Path) -> None:
    """Make a new name durable. Windows cannot open folders, and some network disks cannot sync them."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def _link_new(temp: Path, target: Path) -> None:
    """Give `temp` the name `target` unless that is taken. A hard link never shows half a file."""
    if os.name == "nt":
        os.rename(temp, target)  # on Windows this refuses an existing target
        return
    try:
        os.link(temp, target)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINK_ERRNOS:
            raise
        raise StoreError(
            "this disk cannot hold a store",
            where=str(target.parent),
            why=f"it has no hard links ({error.strerror}), so two writers could not be told apart",
            fix="choose a store on another disk (store=, or APWA_STORE), or an object store",
            code="STORE-LINKS",
        ) from None
