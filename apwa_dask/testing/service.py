"""The routes of a scripted server, and the control endpoints under ``/__control``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

import orjson

from apwa_dask.errors import ConfigError
from apwa_dask.testing.batches import Batches
from apwa_dask.testing.chat import EMBEDDINGS, Client, Desk, bearer, key_refusal
from apwa_dask.testing.log import Call
from apwa_dask.testing.script import Script
from apwa_dask.testing.wire import Reply, Request, error_reply, json_reply

__all__ = ["Service"]

Handler: TypeAlias = Callable[[Request], Reply]


class Service:
    """Knows who answers which request.

    Parameters
    ----------
    script : Script
        What to do.
    sink : callable, optional
        Gets each call when it ends.
    """

    def __init__(self, script: Script, sink: Callable[[Call], None] | None = None) -> None:
        self.desk = Desk(script, clock=time.monotonic, wall=time.time, sink=sink)
        self.batches = Batches(self.desk)
        self.calls: dict[tuple[str, str], Callable[[Request, Client], None]] = {
            ("POST", "/v1/chat/completions"): self.desk.serve,
            ("POST", EMBEDDINGS): self.desk.serve,
        }
        self.reads: dict[tuple[str, str], Handler] = {
            ("GET", "/v1/models"): self._models,
            ("GET", "/health"): lambda request: json_reply(200, b'{"status":"ok"}'),
            ("GET", "/__control/log"): lambda request: json_reply(200, self.desk.book.jsonl()),
            ("GET", "/__control/stats"): self._stats,
            ("GET", "/__control/batches"): lambda request: json_reply(200, self.batches.listed()),
            ("POST", "/__control/script"): self._script,
            ("POST", "/__control/reset"): self._reset,
        }

    def serve(self, request: Request, client: Client) -> None:
        """Handle a request: a read is answered at once, a call now or later."""
        route = (request.method, request.path.partition("?")[0])
        take_call = self.calls.get(route)
        if route[1] == EMBEDDINGS and not self.desk.script.dimensions:
            take_call = None
        if take_call is not None:
            take_call(request, client)
            return
        read = self.reads.get(route)
        if self.batches.serves(request):
            client.answer(self.batches.answer(request))
        elif read is None:
            client.answer(error_reply(404, f"Invalid URL ({route[0]} {route[1]})"))
        else:
            client.answer(read(request))

    def _models(self, request: Request) -> Reply:
        self.desk.book.reads += 1
        refusal = key_refusal(self.desk.script, bearer(request))
        if refusal is not None:
            return refusal
        names = self.desk.script.models or ("scripted",)
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "apwa"} for name in names]
        return json_reply(200, orjson.dumps({"object": "list", "data": data}))

    def _stats(self, request: Request) -> Reply:
        return json_reply(
            200, orjson.dumps(self.desk.book.stats(self.desk.answering, self.desk.max_answering))
        )

    def _script(self, request: Request) -> Reply:
        try:
            script = Script.from_json(request.body)
        except (ConfigError, TypeError, ValueError) as why:
            return error_reply(400, str(why))
        self.desk.use(script)
        return json_reply(200, b"{}")

    def _reset(self, request: Request) -> Reply:
        self.desk.reset()
        return json_reply(200, b"{}")
