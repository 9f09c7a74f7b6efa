"""Real processes for the tests about death: a scheduler and workers on loopback, and programs with runs of their own.

All are ended by their number when their owner's ``with`` ends. Nothing here sleeps for a fixed time: `until` waits for
a condition, with a deadline.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cloudpickle
import pandas as pd
from distributed import Client

import apwa_dask as apwa

KEY = "sk-CANARY-of-the-processes-0f0f0f0f"
"""Of every process here: a worker finds its key in its own environment, not in what the client sends."""
ROOT = str(Path(apwa.__file__).parent.parent)
PROGRAMS = Path(__file__).with_name("programs.py")
DEADLINE_S = 120.0
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a scheduler cannot import what tests import
UNFLUSHED = 256
"""Answers that the journal of one process keeps in memory at most (or those of one second)."""


def until(condition: Callable[[], Any], what: str, timeout_s: float = DEADLINE_S) -> Any:
    """Wait for a true value, and return it."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"after {timeout_s:g} s still not: {what}")


def frame(rows: int) -> pd.DataFrame:
    """Rows that differ, with an index that is not a range."""
    return pd.DataFrame(
        {"text": [f"note {k}" for k in range(rows)], "k": range(rows)}, index=[f"i{k}" for k in range(rows)]
    )


def mapped(rows: int, npartitions: int, **options: Any) -> apwa.Table:
    """One call for each row."""
    table = apwa.from_pandas(frame(rows), npartitions=npartitions)
    return table.map("How severe?", inputs="text", output={"severity": int}, id="ask", **options)


def at_risk(run: apwa.Run, server: Any) -> int:
    """Calls that a death now would lose: made, as the server has it, and in no journal.

    The journal is read first: calls that are made and flushed in between make the bound wider, never narrower.
    """
    from apwa_dask.store.journal import Journal

    with Journal(run.store, namespace=run.spec.namespace) as journal:
        flushed = journal.paid_by(run.id).calls
    return int(server.calls) - flushed


class Child:
    """A process of a test. Its output goes to a file, so that it can never block on a full pipe."""

    def __init__(
        self,
        command: Sequence[str],
        output: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        within: Sequence[str] = (),
    ) -> None:
        self.output = output
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("APWA_")}
        environment = {
            **inherited, "PYTHONPATH": ROOT, "OPENAI_API_KEY": KEY, "APWA_TEST_KEY": KEY, **(env or {})
        }  # fmt: skip
        with output.open("ab") as file:
            self._popen = subprocess.Popen(
                [*within, sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=cwd,
                start_new_session=True,  # a nanny's worker is in the same group, and ends with it
                # whoever runs the tests in the background of a shell has Ctrl-C switched off, and children inherit it
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def is_alive(self) -> bool:
        return self._popen.poll() is None

    @property
    def said(self) -> str:
        """All that it has written so far."""
        return self.output.read_text(errors="replace")

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self._popen.kill()
        self._popen.wait(DEADLINE_S)

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def ended(self, timeout_s: float = DEADLINE_S) -> int:
        """Its exit code, once it has ended."""
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still alive after {timeout_s:g} s:\n{self.said[-3000:]}") from None

    def line(self, prefix: str, timeout_s: float = DEADLINE_S) -> str:
        """The rest of the first line that starts with `prefix`, once it is written."""

        def found() -> str:
            lines = [text for text in self.said.splitlines(keepends=True) if text.startswith(prefix)]
            if lines and lines[0].endswith("\n"):
                return lines[0].strip()
            assert self.is_alive or lines, f"ended without a line {prefix!r}:\n{self.said[-3000:]}"
            return ""

        line: str = until(found, f"a line {prefix!r}", timeout_s)
        return line.removeprefix(prefix).strip()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.is_alive:
            # the group is this child's own: it leads the session that it was started in
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait(DEADLINE_S)


def program(name: str, folder: Path, **options: Any) -> Child:
    """A run in a process of its own (`programs.py`)."""
    env, within = options.pop("env", None), options.pop("within", ())
    output = folder / f"{name}-{time.monotonic_ns()}.log"
    return Child([str(PROGRAMS), name, json.dumps(options)], output, env, within=within)


class Cluster:
    """``dask scheduler`` and ``dask worker`` as processes. A context manager."""

    def __init__(self, folder: Path, *, env: Mapping[str, str] | None = None, preload: str = "") -> None:
        self._folder, self._stack = folder, ExitStack()
        self._env = {"DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "warning", **(env or {})}
        self._count = 0
        contact = folder / "scheduler.json"
        command = [
            "-m",
            "distributed.cli.dask_scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
        ]
        command += ["--scheduler-file", str(contact), *(["--preload", preload] if preload else [])]
        self.scheduler = self._stack.enter_context(
            Child(command, folder / "scheduler.log", self._env, folder)
        )
        self.workers: list[Child] = []
        until(
            lambda: (contact.exists() and contact.stat().st_size) or not self.scheduler.is_alive,
            "a scheduler",
        )
        self.address: str = json.loads(contact.read_text())["address"]

    def add_worker(
        self, *, env: Mapping[str, str] | None = None, preload: str = "", threads: int = 2
    ) -> Child:
        """A worker without a nanny: when it dies it stays dead."""
        self._count += 1
        name = f"w{self._count}"
        command = ["-m", "distributed.cli.dask_worker", self.address, "--name", name, "--no-nanny"]
        command += [
            "--nthreads",
            str(threads),
            "--host",
            "127.0.0.1",
            "--no-dashboard",
            "--memory-limit",
            "0",
        ]
        command += [
            "--local-directory",
            str(self._folder / name),
            *(["--preload", preload] if preload else []),
        ]
        given = {**self._env, **(env or {})}
        worker = self._stack.enter_context(Child(command, self._folder / f"{name}.log", given, self._folder))
        self.workers.append(worker)
        return worker

    def ready(self, client: Client, count: int, **options: Any) -> list[Child]:
        """`count` workers that are alive and known to the scheduler; new ones where there are fewer."""
        self.workers = [worker for worker in self.workers if worker.is_alive]
        while len(self.workers) < count:
            self.add_worker(**options)
        for worker in self.workers[count:]:
            worker.kill()
        self.workers = self.workers[:count]
        pids = {worker.pid for worker in self.workers}
        until(lambda: set(self.pids(client).values()) == pids, "the workers at the scheduler")
        return self.workers

    def pids(self, client: Client) -> dict[str, int]:
        """Process of each worker that the scheduler knows, by address."""
        found: dict[str, int] = client.run_on_scheduler(_known_workers)
        return found

    def address_of(self, client: Client, worker: Child) -> str:
        return next(address for address, pid in self.pids(client).items() if pid == worker.pid)

    def busy_one_leaves(self, client: Client, how: str) -> None:
        """The only worker that has tasks is retired (``retire_workers``) or told to end (``SIGTERM``), and ends."""
        (address,) = (worker for worker, tasks in client.processing().items() if tasks)
        leaving = next(worker for worker in self.workers if worker.pid == self.pids(client)[address])
        if how == "SIGTERM":
            leaving.signal(signal.SIGTERM)
        else:
            client.retire_workers([address])
        leaving.ended()

    @property
    def logs(self) -> list[Path]:
        """What its processes have written."""
        return sorted(self._folder.glob("*.log"))

    def client(self) -> Client:
        return Client(self.address, set_as_default=False, timeout=DEADLINE_S)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()


def _known_workers(dask_scheduler: Any) -> dict[str, int]:
    """Runs on the scheduler."""
    return {address: state.pid for address, state in dask_scheduler.workers.items()}
