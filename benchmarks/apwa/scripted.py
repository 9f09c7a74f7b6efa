"""The scripted model of a workload, and a process that serves it: its CPU and memory are no client's."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from apwa_dask.errors import RunError  # noqa: E402
from apwa_dask.testing import ChatRequest, Fault, On, Script, ScriptedServer, Stats, count_tokens  # noqa: E402
from apwa_dask.testing.scripted_server import control  # noqa: E402
from benchmarks.apwa.jobs import OUTPUT_TOKENS, WINDOW_TOKENS, Workload  # noqa: E402
from benchmarks.apwa.workloads import WORKLOADS  # noqa: E402

__all__ = ["END_OF_TABLE", "READ_TOOL", "ModelServer", "respond_for", "script_for"]

READ_TOOL = "read"
END_OF_TABLE = "[end of table]"
LATENCY_S = 0.02
BUSY_SHARE = 0.001
"""Share of the texts whose first attempt meets a 503."""
_STOP_TIMEOUT_S = 10.0
_LINE_KEY = re.compile(r'^\{"key":"([^"]+)"', re.MULTILINE)


def script_for(
    workload: Workload, window_tokens: int = WINDOW_TOKENS, latency_s: float = LATENCY_S
) -> Script:
    """Right answers, a context window, a constant latency, and now and then a 503 that heals at once."""
    return Script(
        respond=respond_for(workload),
        latency_s=latency_s,
        context_tokens=window_tokens,
        faults=(Fault("status", On(fraction=BUSY_SHARE), times=1, status=503),),
        keep_bodies=False,
        keep_calls=1_000,
    )


def respond_for(workload: Workload) -> Callable[[ChatRequest], Any]:
    """The model: it answers about an item, or, where it has a tool to read with, works as an agent.

    The agent reads page after page to the end of the table, and then answers about everything it has read: in
    one text, or a JSON line for each item, as many at a time as its longest answer holds.
    """

    def respond(request: ChatRequest) -> Any:
        if not request.body.get("tools"):
            return workload.answer(request)
        messages = request.body["messages"]
        pages = [message["content"] for message in messages if message["role"] == "tool"]
        if not any(END_OF_TABLE in page for page in pages):
            return {"tool_calls": [{"name": READ_TOOL, "arguments": {"page": len(pages) + 1}}]}
        if workload.whole:
            return workload.answer(request)
        return _lines(workload, pages, [m.get("content") or "" for m in messages if m["role"] == "assistant"])

    return respond


def _lines(workload: Workload, pages: list[str], written: list[str]) -> str:
    """The next lines of the agent's answer; empty when there are no more."""
    done = {key for text in written for key in _LINE_KEY.findall(text)}
    lines: list[str] = []
    tokens = 0
    for key in (key for page in pages for key in workload.keys(page) if key not in done):
        line = orjson.dumps({"key": key, **workload.gold(key)}).decode() + "\n"
        tokens += count_tokens(line)
        if tokens > OUTPUT_TOKENS:
            break
        lines.append(line)
    return "".join(lines) or "Done."


class ModelServer:
    """A scripted model in a process of its own, for as long as the ``with`` block."""

    def __init__(self, workload: str, window_tokens: int = WINDOW_TOKENS) -> None:
        self._words = [sys.executable, str(Path(__file__)), workload, "--window", str(window_tokens)]

    def __enter__(self) -> ModelServer:
        self._process = subprocess.Popen(
            self._words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        ready = self._process.stdout.readline().split()
        if ready[:1] != ["READY"]:
            self._process.kill()
            raise RunError("the scripted model did not start", why="its own words are above")
        self.base_url = ready[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._process.communicate(timeout=_STOP_TIMEOUT_S)  # the end of its input ends it
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def stats(self) -> Stats:
        """Exact counters since the last reset."""
        return Stats(**json.loads(control(self.base_url, "GET", "stats")))

    def reset(self) -> None:
        """Forget all calls."""
        control(self.base_url, "POST", "reset")


def main() -> None:
    """Serve until the end of standard input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", choices=list(WORKLOADS))
    parser.add_argument("--window", type=int, default=WINDOW_TOKENS, help="tokens")
    given = parser.parse_args()
    script = script_for(WORKLOADS[given.workload], given.window)
    with ScriptedServer(script, in_process=True) as server:
        print(f"READY {server.base_url}", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
