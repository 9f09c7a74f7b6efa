"""One TCP connection: bytes in, requests out, replies and their endings back."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import struct
from typing import cast

from apwa_dask.testing.chat import Exchange
from apwa_dask.testing.service import Service
from apwa_dask.testing.wire import BadRequest, Reply, error_reply, read_request

__all__ = ["Connection"]

_numbers = itertools.count(1)
# uvloop writes at the end of a turn of the loop; a reset before that would swallow the half body.
RESET_AFTER_S = 0.01


class Connection(asyncio.Protocol):
    """Serves the requests of one client, one after the other, and tells their exchanges how they ended."""

    def __init__(self, service: Service, connections: set[Connection]) -> None:
        self.service, self.connections = service, connections
        self.number = next(_numbers)
        self.buffer = bytearray()
        self.exchange: Exchange | None = None
        self.busy = self.closing = False
        self.rest: memoryview = memoryview(b"")
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self.transport = cast(asyncio.Transport, transport)
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.connections.add(self)

    def connection_lost(self, why: Exception | None) -> None:
        """The client hung up, or we did: a call that was not answered in full is aborted."""
        self.connections.discard(self)
        if self.timer is not None:
            self.timer.cancel()
        self._end(aborted=True)
        self.lost.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Take bytes in; while a request is being answered the next ones wait in the buffer."""
        self.buffer += data
        if not self.busy:
            self._next()

    def answer(self, reply: Reply) -> None:
        """Send a reply and end as it says."""
        loop = asyncio.get_running_loop()
        if reply.ending == "hang":
            return
        if reply.ending == "drip":
            self.rest = memoryview(reply.payload)
            self._drip(loop, reply.interval_s)
            return
        self.transport.write(reply.payload)
        self._replied()
        if reply.ending == "reset":
            self.closing = True
            self.timer = loop.call_later(RESET_AFTER_S, self._reset)
        elif reply.ending == "close" or self.closing:
            self.closing = True
            self.transport.close()
        elif self.buffer:
            loop.call_soon(self._next)

    def _next(self) -> None:
        if self.busy or self.closing:
            return
        try:
            request = read_request(self.buffer)
        except BadRequest as why:
            self.closing = True
            self.answer(error_reply(why.status, str(why)))
            return
        if request is None:
            return
        self.busy = True
        self.closing = request.headers.get(b"connection", b"").lower() == b"close"
        self.service.serve(request, self)

    def _replied(self) -> None:
        self.busy = False
        self._end(aborted=False)

    def _end(self, *, aborted: bool) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.done(aborted=aborted)

    def _drip(self, loop: asyncio.AbstractEventLoop, interval_s: float) -> None:
        self.transport.write(bytes(self.rest[:1]))
        self.rest = self.rest[1:]
        if self.rest:
            self.timer = loop.call_later(interval_s, self._drip, loop, interval_s)
        else:
            self._replied()
            if self.closing:
                self.transport.close()

    def _reset(self) -> None:
        # Lingering for zero seconds makes the kernel send RST. The option belongs to the open socket, which
        # the duplicate shares; uvloop's own socket object does not let it be set.
        with socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno())) as twin:
            twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()
