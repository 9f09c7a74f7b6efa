"""The listening socket of a scripted server, and the loop it runs on."""

from __future__ import annotations

import asyncio

from apwa_dask.testing.connection import Connection
from apwa_dask.testing.service import Service

__all__ = ["HOST", "Listener", "new_loop"]

HOST = "127.0.0.1"


def new_loop() -> asyncio.AbstractEventLoop:
    """A uvloop loop where uvloop is installed, else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


class Listener:
    """A service bound to a port of the loopback interface."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.connections: set[Connection] = set()

    async def open(self, port: int) -> int:
        """Listen; returns the port, which the system chooses for 0."""
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(
            lambda: Connection(self.service, self.connections), HOST, port, backlog=4096
        )
        chosen: int = self.server.sockets[0].getsockname()[1]
        return chosen

    async def close(self) -> None:
        """Stop listening and cut every connection; calls in flight are logged as aborted."""
        self.server.close()
        lost = [connection.lost for connection in self.connections]
        for connection in self.connections:
            connection.transport.abort()
        await asyncio.gather(*lost)
