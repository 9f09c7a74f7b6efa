"""The process of a scripted server: ``python -m apwa_dask.testing.server --port 0 --script script.json``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import orjson

from apwa_dask.testing.listener import HOST, Listener, new_loop
from apwa_dask.testing.log import Call
from apwa_dask.testing.script import Script
from apwa_dask.testing.service import Service

__all__ = ["main"]

PARENT_CHECK_S = 0.5


async def _serve(
    port: int, script: Script, sink: Callable[[Call], None] | None, watch_stdin: bool, parent: int | None
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if watch_stdin:
        loop.add_reader(sys.stdin.fileno(), _stop_at_end_of_input, stop)
    listener = Listener(Service(script, sink))
    chosen = await listener.open(port)
    sys.stdout.write(f"READY http://{HOST}:{chosen}/v1\n")
    sys.stdout.flush()
    while not stop.is_set() and parent in (None, os.getppid()):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), PARENT_CHECK_S)
    await listener.close()


def _stop_at_end_of_input(stop: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        stop.set()


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Prints one line, ``READY <base url>``, when calls can come."""
    parser = argparse.ArgumentParser(prog="python -m apwa_dask.testing.server", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 lets the system choose")
    parser.add_argument(
        "--script", default="", help="JSON file; '-' reads one line from stdin and stops at its end"
    )
    # The end of stdin tells of a parent's death, unless one of its forks still holds the other end.
    parser.add_argument("--parent", type=int, help="stop when this process is no longer the parent")
    parser.add_argument("--log", type=Path, help="JSON lines file that gets each call when it ends")
    given = parser.parse_args(arguments)
    watch_stdin = given.script == "-"
    if watch_stdin:
        script = Script.from_json(sys.stdin.buffer.readline())
    else:
        script = Script.from_json(Path(given.script).read_bytes()) if given.script else Script()
    with contextlib.ExitStack() as stack:
        sink: Callable[[Call], None] | None = None
        if given.log is not None:
            file = stack.enter_context(given.log.open("ab", buffering=0))

            def sink(call: Call) -> None:
                file.write(orjson.dumps(call) + b"\n")

        loop = new_loop()
        stack.callback(loop.close)
        loop.run_until_complete(_serve(given.port, script, sink, watch_stdin, given.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
