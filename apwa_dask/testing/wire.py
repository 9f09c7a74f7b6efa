"""HTTP/1.1 in bytes: read requests, build responses. No framework: its CPU would show in benchmarks."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Literal

import orjson

__all__ = [
    "BadRequest",
    "Reply",
    "Request",
    "error_reply",
    "gzip_of_spaces",
    "html_reply",
    "json_reply",
    "read_request",
]

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 256 * 1024 * 1024

Header = tuple[str, str]
Ending = Literal["keep", "close", "reset", "drip", "hang"]


class BadRequest(ValueError):
    """The bytes are not an HTTP request that this server reads; the connection cannot go on."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. Names of headers are lower case."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """Bytes to send, and what to do with the connection after them.

    ``keep`` it open, ``close`` it, ``reset`` it (RST), send the payload as a ``drip`` byte by byte, or
    ``hang``: send nothing until the client gives up.
    """

    status: int
    payload: bytes
    ending: Ending = "keep"
    interval_s: float = 0.0


def read_request(buffer: bytearray) -> Request | None:
    """Take the first whole request from the buffer; None if more bytes must come.

    Raises
    ------
    BadRequest
        400 for a malformed head, 411 for a body without length, 413 and 431 for one too large.
    """
    head_end = buffer.find(b"\r\n\r\n")
    if head_end < 0:
        if len(buffer) > MAX_HEAD_BYTES:
            raise BadRequest(431, "the head of the request is too large")
        return None
    first, *lines = bytes(buffer[:head_end]).split(b"\r\n")
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        headers[name.lower()] = value.strip()
    if b"transfer-encoding" in headers:
        raise BadRequest(411, "send a Content-Length: chunked request bodies are not read")
    length = headers.get(b"content-length", b"0")
    if not length.isdigit():
        raise BadRequest(400, "Content-Length is not a number")
    body_start = head_end + 4
    body_end = body_start + int(length)
    if body_end > MAX_BODY_BYTES:
        raise BadRequest(413, "the body of the request is too large")
    if len(buffer) < body_end:
        return None
    words = first.split(b" ")
    if len(words) != 3:
        raise BadRequest(400, "the first line is not METHOD PATH VERSION")
    body = bytes(buffer[body_start:body_end])
    del buffer[:body_end]
    return Request(words[0].decode("latin-1"), words[1].decode("latin-1"), headers, body)


@lru_cache(maxsize=256)
def _head(status: int, content_type: str, extra: tuple[Header, ...]) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Overloaded"  # 529 and other numbers that providers made up
    lines = [f"HTTP/1.1 {status} {phrase}", f"content-type: {content_type}"]
    lines += [f"{name}: {value}" for name, value in extra]
    return ("\r\n".join(lines) + "\r\ncontent-length: ").encode("latin-1")


def response(
    status: int,
    body: bytes,
    extra: Iterable[Header] = (),
    *,
    content_type: str = "application/json",
    announced: int | None = None,
) -> bytes:
    """Bytes of a response; `announced` is a Content-Length that is not the body's."""
    length = len(body) if announced is None else announced
    return b"%b%d\r\n\r\n%b" % (_head(status, content_type, tuple(extra)), length, body)


def json_reply(status: int, body: bytes, extra: Iterable[Header] = ()) -> Reply:
    """A JSON response that leaves the connection open."""
    return Reply(status, response(status, body, extra))


def html_reply(status: int, extra: Iterable[Header] = ()) -> Reply:
    """A page as gateways send them."""
    page = f"<html><head><title>{status}</title></head><body><h1>Bad gateway page</h1></body></html>".encode()
    return Reply(status, response(status, page, extra, content_type="text/html; charset=utf-8"))


def error_reply(
    status: int,
    message: str,
    *,
    kind: str = "invalid_request_error",
    code: str | None = None,
    param: str | None = None,
    extra: Iterable[Header] = (),
) -> Reply:
    """An error as OpenAI-compatible endpoints word it."""
    error = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return json_reply(status, orjson.dumps(error), extra)


def gzip_of_spaces(size_bytes: int, tail: bytes) -> bytes:
    """A gzip member that decodes to `size_bytes` of spaces and then `tail`: small to send, large to open."""
    started, packed = _packed_spaces(size_bytes)
    packer = started.copy()
    return packed + packer.compress(tail) + packer.flush()


@lru_cache(maxsize=4)
def _packed_spaces(size_bytes: int) -> tuple[zlib._Compress, bytes]:
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    block = b" " * 1_000_000
    parts = [packer.compress(block) for _ in range(size_bytes // len(block))]
    parts.append(packer.compress(b" " * (size_bytes % len(block))))
    return packer, b"".join(parts)
