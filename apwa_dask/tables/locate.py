"""From URLs, globs, folders and archives to a list of files, and from a URL back to its bytes."""

from __future__ import annotations

import base64
import dataclasses
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit, urlunsplit

import fsspec
from fsspec.core import url_to_fs

from ..errors import SourceError

__all__ = ["Located", "Opener", "expand", "split_userinfo"]

_MARKERS = ("_SUCCESS", "_metadata", "_common_metadata", "_started", "_committed")
_MAGIC = "*?["
_MAX_DOWNLOAD_IN_MEMORY = 16 << 20


@dataclass(frozen=True, slots=True)
class Located:
    """A file found; `skip` says why it is left out (hidden files, markers of other engines)."""

    url: str
    path: str
    size: int
    etag: str
    modified: str
    skip: str = ""


class Opener:
    """Opens URLs for one read: file systems are kept for its life only, and listings are never cached.

    Parameters
    ----------
    storage_options : mapping, optional
        fsspec options; for a chained URL they belong to its last protocol unless keyed by protocol.
    """

    def __init__(self, storage_options: Mapping[str, Any] | None = None) -> None:
        self._options = dict(storage_options or {})
        self._systems: dict[str, Any] = {}
        self._lock = threading.Lock()

    def fs(self, url: str) -> tuple[Any, str]:
        """Return the file system of `url` and the path inside it."""
        key = _system_key(url)
        with self._lock:
            if key not in self._systems:
                self._systems[key] = _file_system(url, self._kwargs(url))
            system = self._systems[key]
        head, _, outer = url.partition("::")
        if outer and "://" not in head:
            return system, self.fs(outer)[1]
        return system, system._strip_protocol(head)

    def _kwargs(self, url: str) -> dict[str, Any]:
        options = dict(self._options)
        *outer, last = url.split("::")
        protocols = [*(part.partition("://")[0] for part in outer), _protocol(last)]
        if len(protocols) > 1 and options and not set(protocols) & set(options):
            options = {protocols[-1]: options}
        if len(protocols) == 1:
            options.update(options.pop(protocols[0], {}))
        return {**options, "use_listings_cache": False, "skip_instance_cache": True}

    def open(self, url: str) -> BinaryIO:
        """Open the raw (still compressed) bytes of `url`, seekable where the file system is."""
        system, path = self.fs(url)
        if _protocol(url) in ("http", "https") and not system.info(path).get("partial"):
            return _downloaded(system, path)
        return cast(BinaryIO, system.open(path, "rb"))

    def info(self, url: str) -> dict[str, Any]:
        """Return the file system's description of `url`."""
        system, path = self.fs(url)
        return cast("dict[str, Any]", system.info(path))


def public_url(url: str) -> str:
    """Return a URL without its query where that may hold a signature (HTTP)."""
    return url.partition("?")[0] if "http://" in url or "https://" in url else url


def _system_key(url: str) -> str:
    """Return what URLs of one file system share: protocol and host, and the archive or cache around."""
    head, _, outer = url.partition("::")
    if outer and "://" not in head:
        return f"{head}::{_system_key(outer)}"
    return f"{_protocol(head)}::{outer}" if outer else f"{_protocol(head)}://{urlsplit(head).netloc}"


def _protocol(url: str) -> str:
    return url.partition("://")[0] if "://" in url else "file"


def _downloaded(system: Any, path: str) -> BinaryIO:
    """Copy a file from a web server that cannot serve parts of it; on disk where it is large."""
    copy = tempfile.SpooledTemporaryFile(max_size=_MAX_DOWNLOAD_IN_MEMORY)  # noqa: SIM115 - the caller closes it
    with system.open(path, "rb", block_size=0) as stream:
        shutil.copyfileobj(stream, copy, 1 << 20)
    copy.seek(0)
    return cast(BinaryIO, copy)


def split_userinfo(url: str) -> tuple[str, dict[str, Any]]:
    """Take user name and password out of a URL.

    Returns
    -------
    url : str
        Without them.
    options : dict
        The fsspec options that say the same.
    """
    segments = url.split("::")
    parts = urlsplit(segments[-1])
    if "@" not in parts.netloc or parts.scheme in ("", "file", "memory", "abfs", "abfss", "az"):
        return url, {}
    userinfo, _, host = parts.netloc.rpartition("@")
    user, _, password = userinfo.partition(":")
    segments[-1] = urlunsplit(parts._replace(netloc=host))
    if parts.scheme in ("http", "https"):
        token = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
        options: dict[str, Any] = {"client_kwargs": {"headers": {"Authorization": f"Basic {token}"}}}
    else:
        options = {"username": unquote(user), "password": unquote(password)}
    return "::".join(segments), {parts.scheme: options}


_ETAGS = ("ETag", "etag", "e_tag", "md5Hash", "checksum", "CRC")
_TIMES = (
    "mtime",
    "LastModified",
    "last_modified",
    "Last-Modified",
    "updated",
    "created",
    "modified",
    "date_time",
)


def identity(info: Mapping[str, Any]) -> tuple[int, str, str]:
    """Return size in bytes, etag and modification time, as text and "" where unknown.

    The time is written with the name of its field, so that times of different meaning never compare equal.
    """
    etag = next((str(info[key]) for key in _ETAGS if info.get(key)), "")
    modified = next((f"{key}={_seconds(info[key])}" for key in _TIMES if info.get(key)), "")
    return int(info.get("size") or 0), etag, modified


def _seconds(moment: Any) -> Any:
    """Listings and single files may tell the same time as a datetime or as seconds."""
    return moment.timestamp() if isinstance(moment, datetime) else moment


def expand(urls: Sequence[str], opener: Opener) -> Iterator[Located]:
    """Yield the files behind `urls`, sorted within each; a file named twice comes once.

    Raises
    ------
    SourceError
        When one of them matches nothing, naming it.
    """
    seen: set[str] = set()
    for url in urls:
        found = _expand_one(url, opener)
        if not found:
            raise SourceError(
                f"nothing matches {public_url(url)!r}",
                where=public_url(url),
                why="no file, folder or pattern of this name was found",
                fix="check the spelling; folders are read recursively, patterns may use *, ** and ?",
                code="SOURCE-MISSING",
            )
        for file in found:
            if file.url not in seen:
                seen.add(file.url)
                yield file


def _expand_one(url: str, opener: Opener) -> list[Located]:
    head, _, outer = url.partition("::")
    if outer and "://" not in head:  # a cache in front of another file system: list that one, read through it
        return [dataclasses.replace(file, url=f"{head}::{file.url}") for file in _expand_one(outer, opener)]
    if outer and "://" not in outer and "::" not in outer:
        url = f"{head}::{fsspec.filesystem('file').unstrip_protocol(outer)}"
    try:
        system, path = opener.fs(url)
    except FileNotFoundError:
        return []
    outer = url.partition("::")[2]
    if _is_file(system, path):
        return [_located(system, path, outer, base=_parent(path), info=system.info(path))]
    if any(char in path for char in _MAGIC):
        base = _parent(path[: min(path.find(char) for char in _MAGIC if char in path)] + "x")
        found = system.glob(path, detail=True)
        infos = {name: info for name, info in found.items() if info["type"] == "file"}
        for name, info in found.items():
            if info["type"] == "directory" and "**" not in path:
                infos.update(system.find(name, detail=True))
    else:
        base, infos = path.rstrip("/"), system.find(path, detail=True)
    return [_located(system, name, outer, base=base, info=infos[name]) for name in sorted(infos)]


def _file_system(url: str, options: Mapping[str, Any]) -> Any:
    try:
        return url_to_fs(url, **options)[0]
    except (ImportError, ValueError) as error:
        protocols = ", ".join(dict.fromkeys(_protocol(part) for part in url.split("::")))
        raise SourceError(
            "no file system for this URL",
            where=split_userinfo(url)[0],
            why=str(error) if isinstance(error, ImportError) else f"fsspec does not know one of: {protocols}",
            fix="check what stands before ://; S3, Google Cloud Storage and Azure need the extra s3, gcs or azure",
            code="SOURCE-PROTOCOL",
        ) from error


def _is_file(system: Any, path: str) -> bool:
    if path in ("", "/"):
        return False
    return bool(system.isfile(path))


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _located(system: Any, path: str, outer: str, *, base: str, info: Mapping[str, Any]) -> Located:
    url = f"{path if '://' in path else system.unstrip_protocol(path)}"
    if outer:
        protocol = system.protocol if isinstance(system.protocol, str) else system.protocol[0]
        url = f"{protocol}://{path}::{outer}"
    shown = path[len(base) :].lstrip("/") if path.startswith(base) else path
    size, etag, modified = identity(info if info.get("size") is not None else system.info(path))
    return Located(
        url, shown.partition("?")[0] if "://" in path else shown, size, etag, modified, skip=_why_skip(shown)
    )


def _why_skip(path: str) -> str:
    parts = PurePosixPath(path).parts
    if any(part.startswith(".") for part in parts[:-1]) or (len(parts) > 1 and parts[-1].startswith(".")):
        return "hidden file"
    if parts and parts[-1].startswith(_MARKERS) and "." not in parts[-1]:
        return "marker file of another engine"
    return ""


def archive_members(file: Located, opener: Opener) -> list[Located]:
    """List the files inside a zip archive as files of their own.

    Raises
    ------
    zipfile.BadZipFile
        When the archive is damaged.
    """
    with opener.open(file.url) as raw, zipfile.ZipFile(raw) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
    return [
        Located(
            url=f"zip://{member.filename}::{file.url}",
            path=member.filename,
            size=member.file_size,
            etag=str(member.CRC),
            modified=f"date_time={member.date_time}",
            skip="encrypted archive member" if member.flag_bits & 1 else _why_skip("x/" + member.filename),
        )
        for member in sorted(members, key=lambda member: member.filename)
    ]
