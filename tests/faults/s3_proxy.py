"""An S3 endpoint with bad days: a proxy in front of a real one that answers, delays or hangs up as it is told.

Requests go on as they came (the server behind does not look at signatures). What a fault does is decided for each
request by a function of its number and path, so that a test says exactly which are struck, and counts them.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Trouble = Literal["", "SlowDown", "InternalError", "ExpiredToken", "lost answer", "slow"]
"""Before it reaches the server, but for ``lost answer``, which is done and then hung up on."""
STATUS = {"SlowDown": 503, "InternalError": 500, "ExpiredToken": 403}
Plan = Callable[[int, str], Trouble]
"""From the number and the path of a request."""
SLOW_S = 0.3
_KEPT_BACK = {"transfer-encoding", "connection", "content-length", "date", "server"}


class S3Proxy:
    """A context manager; its `url` goes where the real endpoint's would."""

    def __init__(self, endpoint: str) -> None:
        self.plan: Plan = lambda number, path: ""
        self.struck: Counter[str] = Counter()
        self._lock, self._number = threading.Lock(), 0
        behind = urlsplit(endpoint).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def serve(handler) -> None:
                self._serve(handler, behind)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = serve

            def log_message(handler, *given: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> S3Proxy:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=10)

    def heal(self) -> None:
        """Nothing goes wrong from now on."""
        self.plan = lambda number, path: ""

    def _serve(self, handler: BaseHTTPRequestHandler, behind: str) -> None:
        body = _body_of(handler)
        with self._lock:
            self._number += 1
            trouble = self.plan(self._number, handler.path)
            if trouble:
                self.struck[trouble] += 1
        if trouble in STATUS:
            _answer(handler, STATUS[trouble], {"Content-Type": "application/xml"}, _error(trouble))
            return
        if trouble == "slow":
            time.sleep(SLOW_S)
        connection = http.client.HTTPConnection(behind, timeout=60)
        try:
            headers = {name: value for name, value in handler.headers.items() if name.lower() != "connection"}
            connection.request(handler.command, handler.path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
            if trouble == "lost answer":
                handler.close_connection = True
                return
            _answer(handler, answer.status, dict(answer.getheaders()), data)
        finally:
            connection.close()


def _body_of(handler: BaseHTTPRequestHandler) -> bytes:
    if handler.headers.get("Expect", "").lower() == "100-continue":
        handler.send_response_only(100)
        handler.end_headers()
    if "chunked" not in handler.headers.get("Transfer-Encoding", ""):
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    parts: list[bytes] = []
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        parts.append(handler.rfile.read(size))
        handler.rfile.readline()
    handler.rfile.readline()
    return b"".join(parts)


def _answer(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], data: bytes) -> None:
    handler.send_response_only(status)
    length = str(len(data))
    for name, value in headers.items():
        if name.lower() == "content-length" and handler.command == "HEAD":
            length = value  # of the object, which a HEAD does not bring
        elif name.lower() not in _KEPT_BACK:
            handler.send_header(name, value)
    handler.send_header("Content-Length", length)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(data)


def _error(code: str) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f"<Error><Code>{code}</Code><Message>injected {code}</Message><RequestId>1</RequestId></Error>"
    ).encode()
