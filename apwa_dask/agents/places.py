"""URLs and paths among a tool's arguments: refused unless the tool declares them, and then only where allowed.

What a model gives to a tool may come from the text of a row. A tool that takes a path or an address says so in
its signature, with the places that are allowed:

>>> from typing import Annotated
>>> def page(url: Annotated[str, UrlIn("docs.example.org")]) -> str: ...
>>> def note(path: Annotated[str, PathIn("/srv/notes")]) -> str: ...

Any other text argument of a tool that can reach the world (every power but ``pure``) that is a URL or a path is
denied before the tool runs. Redirects and names that answer differently the second time are the tool's to look
at, when it connects: `public_addresses`.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

__all__ = ["PathIn", "UrlIn", "place_in", "public_addresses"]

Resolve = Callable[[str, int], Iterable[str]]

_MOST_CHARS = 2_048
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:(?://|::|/)|(?:data|file|javascript|mailto):", re.IGNORECASE)
_PATH = re.compile(r"[/~\\]|[A-Za-z]:[\\/]|\.\.?[\\/]")
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9\-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9\-]*[a-z0-9])?)+")
_NUMERIC = re.compile(r"(?:0x[0-9a-f]*|\d+)(?:\.(?:0x[0-9a-f]*|\d+))*")


class UrlIn:
    """Annotation of an argument that is an https URL on one of these hosts, exactly as written.

    Parameters
    ----------
    *hosts : str
        Names; never addresses. Subdomains are other hosts.
    """

    def __init__(self, *hosts: str) -> None:
        self.hosts = frozenset(host.lower() for host in hosts)

    def __call__(self, url: str) -> str:
        """The URL.

        Raises
        ------
        ValueError
            Why it is not allowed, without the URL.
        """
        host = _host_of(url)
        if host not in self.hosts:
            raise ValueError(f"not an allowed host; allowed: {', '.join(sorted(self.hosts)) or 'none'}")
        return url

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self, handler(source))


class PathIn:
    """Annotation of an argument that is a relative path to something inside a folder.

    The tool gets the real path, symbolic links followed, which is inside the folder.

    Parameters
    ----------
    root : str
        The folder.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def __call__(self, path: str) -> str:
        """The real path.

        Raises
        ------
        ValueError
            Why it is not allowed, without the path.
        """
        odd = not path.isprintable() or any(sign in path for sign in ("\\", "::", "%", "~", ":"))
        if odd or not path or len(path) > _MOST_CHARS:
            raise ValueError("a path here is plain: no URL, drive, chain, escape or control character")
        if path.startswith("/") or ".." in PurePosixPath(path).parts:
            raise ValueError("a path here is relative and never goes up")
        root = self.root.resolve()
        real = (root / path).resolve()
        if not real.is_relative_to(root):
            raise ValueError("the path leads out of the folder")
        return str(real)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self, handler(source))


def place_in(value: Any) -> bool:
    """Whether an argument, or anything in it, is a URL or a path as a whole."""
    if isinstance(value, str):
        text = value.strip()
        return bool(_SCHEME.match(text) or _PATH.match(text) or "::" in text) and not re.search(r"\s", text)
    if isinstance(value, Mapping):
        return any(place_in(entry) for pair in value.items() for entry in pair)
    return isinstance(value, (list, tuple, set)) and any(place_in(entry) for entry in value)


def public_addresses(url: str, *, resolve: Resolve | None = None) -> tuple[str, ...]:
    """Addresses of the URL's host, all of them public. Connect to one of these, not to the name again.

    A name may answer differently the second time. Follow no redirect without asking again.

    Parameters
    ----------
    url : str
        https, by name.
    resolve : callable, optional
        ``(host, port) -> addresses``; the system's by default.

    Raises
    ------
    ValueError
        The URL is not plain https by name, or an address is loopback, private, link-local or otherwise not
        public.
    """
    host = _host_of(url)
    found = tuple((resolve or _system_addresses)(host, urlsplit(url).port or 443))
    if not found:
        raise ValueError("the host has no address")
    for address in found:
        if not _is_public(address):
            raise ValueError("the host has an address that is not public")
    return found


def _host_of(url: str) -> str:
    """The host of a plain https URL, lower case."""
    if len(url) > _MOST_CHARS or not url.isascii() or re.search(r"[\s\\\x00-\x1f\x7f]", url):
        raise ValueError("a URL here is plain ASCII without blanks or backslashes")
    parts = urlsplit(url)
    if parts.scheme != "https":
        raise ValueError("only https is allowed")
    if "@" in parts.netloc or "%" in parts.netloc:
        raise ValueError("a URL here has no user and no escapes before its path")
    host = (parts.hostname or "").lower()
    if not _HOST.fullmatch(host) or _NUMERIC.fullmatch(host):
        raise ValueError("a host is given by its full name, never by a number")
    return host


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.split("%")[0])
    inner = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
    teredo = getattr(ip, "teredo", None)
    every = [ip, *([inner] if inner else []), *(teredo or ())]
    return all(one.is_global and not one.is_multicast for one in every)


def _system_addresses(host: str, port: int) -> list[str]:
    return sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, port, proto=socket.IPPROTO_TCP)})
