"""Whatever is done to a run, in whatever order: no row is lost or moved, no answer is paid for twice (I1 to I3).

A Hypothesis state machine runs, kills, resumes, edits the plan, retries, inserts rows, repartitions and reorders
over random frames and fault scripts. After each step the result, the journal's bill and the server's log must agree,
and the number of new calls must be the one that a set of answered requests predicts.

A kill raises at a kill point of the store and at every later one, so that nothing is written after it, and what only
memory held is thrown away: a `kill -9` without the seconds that a process takes to start. `test_crash.py` and
`tests/faults` kill real processes. Larger searches: ``APWA_EXAMPLES=300 make machine``.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import apwa_dask as apwa
from apwa_dask.execution.runtime import runtime
from apwa_dask.store import killpoints, lease
from apwa_dask.store.journal import Journal
from apwa_dask.testing import Call, Fault, Script, ScriptedServer

INSTRUCTIONS = ("rate the severity", "rate the severity of what is told")
FAULTS = (Fault("refusal", on="refuse"), Fault("content_filter", on="filter"))
POINTS = (
    "run.before_link",
    "part.half_written",
    "part.before_rename",
    "part.after_rename",
    "journal.before_write",
    "journal.half_written",
    "journal.after_rename",
    "commit.before",
    "commit.before_link",
    "commit.after_link",
    "commit.after",
    "partition.before_write",
    "partition.before_commit",
    "partition.after_commit",
    "history.before_link",
    "manifest.before_rename",
)
Request = tuple[int, str]
"""Which instruction, and the row's text."""


class Killed(BaseException):
    """This process is dead, as far as the store can tell."""


class Mortality:
    """Stands in for `killpoints.reach` in every module: dies at one point, and stays dead until `reborn`."""

    def __init__(self) -> None:
        self.patches = pytest.MonkeyPatch()
        self.life = 0
        self.point, self.arrival, self.arrivals = "", 0, 0
        self.is_dead = False
        alive = killpoints.reach
        for module in list(sys.modules.values()):
            if getattr(module, "reach", None) is alive and module is not killpoints:
                self.patches.setattr(module, "reach", self.reach)
        started = lease._start_time
        # a claim of an earlier life is a dead process's, though the process number is ours
        self.patches.setattr(
            lease, "_start_time", lambda pid: f"{started(pid)}/{self.life if pid == os.getpid() else ''}"
        )

    def arm(self, point: str, arrival: int) -> None:
        self.point, self.arrival, self.arrivals = point, arrival, 0

    def reach(self, point: str) -> None:
        if self.is_dead:
            raise Killed(point)
        if point != self.point:
            return
        self.arrivals += 1
        if self.arrivals == self.arrival:
            self.is_dead = True
            raise Killed(point)

    def reborn(self, store: str) -> None:
        """A new process: it knows nothing of what the old one had in memory."""
        here = runtime()
        with here._lock:
            for key in [key for key in here._journals if key[0] == store]:
                journal = here._journals.pop(key)
                journal._closer.detach()
                with journal._behind._lock:
                    journal._behind._buffer.clear()
                journal._behind._stopped.set()
                journal._behind._something.set()
                journal._behind._enough.set()
            for key in [key for key in here._runs if key[0] == store]:
                del here._runs[key]
        self.arm("", 0)
        self.is_dead = False
        self.life += 1


words = st.sampled_from(["red", "blue", "green", "", "refuse", "filter", "tall", "  "])
texts = st.builds(lambda word, k: f"{word} {k}".strip() if word.strip() else word, words, st.integers(0, 12))
indexes = st.sampled_from(["range", "shuffled", "text", "twice"])


class RunsOfOneTable(RuleBasedStateMachine):
    """One table, one store, any number of runs."""

    server: ScriptedServer

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = str(Path(self.folder.name) / "store")
        self.mortality = Mortality()
        self.instruction, self.npartitions, self.is_mended = 0, 1, False
        self.of_run: dict[str, tuple[list[str], int]] = {}
        """Rows and instruction of each run."""
        self.interrupted = ""
        self.last: apwa.Run | None = None
        self.answered: set[Request] = set()
        self.lost_calls = 0
        self.server.set(Script(faults=FAULTS))
        self.first_call = self.server.calls
        self.model = apwa.Model("m", base_url=self.server.base_url, api_key_env="OPENAI_API_KEY")

    def teardown(self) -> None:
        self.mortality.reborn(self.store)
        self.mortality.patches.undo()
        self.folder.cleanup()

    # -- what there is

    @initialize(rows=st.lists(texts, max_size=24), kind=indexes, npartitions=st.integers(1, 4))
    def begin(self, rows: list[str], kind: str, npartitions: int) -> None:
        self.rows, self.kind, self.npartitions = rows, kind, npartitions

    @property
    def frame(self) -> pd.DataFrame:
        count = len(self.rows)
        index: Any = {
            "range": pd.RangeIndex(count),
            "shuffled": pd.Index([(7 * k + 3) % max(count, 1) for k in range(count)], dtype="int64"),
            "text": pd.Index([f"r{k}" for k in range(count)], dtype="object", name="name"),
            "twice": pd.Index([k // 2 for k in range(count)], dtype="int64"),
        }[self.kind]
        return pd.DataFrame({"text": pd.Series(self.rows, dtype="object").to_numpy()}, index=index)

    @property
    def table(self) -> apwa.Table:
        source = apwa.from_pandas(self.frame, npartitions=self.npartitions)
        return source.map(INSTRUCTIONS[self.instruction], inputs="text", output={"severity": int}, id="rate")

    def log(self) -> tuple[Call, ...]:
        return self.server.log().calls[self.first_call :]

    # -- what can be done

    @rule(n=st.integers(1, 4))
    def repartition(self, n: int) -> None:
        self.npartitions = n

    @rule(data=st.data())
    def reorder(self, data: st.DataObject) -> None:
        self.rows = data.draw(st.permutations(self.rows))

    @rule(new=st.lists(texts, min_size=1, max_size=4), data=st.data())
    def insert_rows(self, new: list[str], data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.rows)))
        self.rows = [*self.rows[:at], *new, *self.rows[at:]]

    @rule()
    def edit_the_plan(self) -> None:
        self.instruction = 1 - self.instruction

    @rule(in_a_new_process=st.booleans())
    def run(self, in_a_new_process: bool) -> None:
        if in_a_new_process:
            runtime().journal(self.store, "default", store_prompts=False).flush()
            self.mortality.reborn(self.store)
        self.finish(self.launch())

    @rule(point=st.sampled_from(POINTS), arrival=st.integers(1, 3), and_resume=st.booleans())
    def kill(self, point: str, arrival: int, and_resume: bool) -> None:
        self.mortality.arm(point, arrival)
        known = set(self.of_run)
        run = None
        try:
            run = self.launch()
            run.wait(timeout=60)
        except Killed:
            self.wait_for_silence()
        if not self.mortality.is_dead:  # it never came to that point so often
            assert run is not None
            self.mortality.arm("", 0)
            self.finish(run)
            return
        self.mortality.reborn(self.store)
        self.count_the_losses()
        born = [run_id for run_id in self.of_run if run_id not in known]
        self.interrupted = born[0] if born else ""
        if and_resume and born:
            self.resume()

    @precondition(lambda self: self.interrupted)
    @rule()
    def resume(self) -> None:
        run = apwa.attach(self.interrupted, self.store, scheduler="sync", progress=False)
        rows, instruction = self.of_run[run.id]
        before = self.server.calls
        run.resume().wait(timeout=60)
        self.check(run, rows, instruction, before, may_skip=True)
        self.interrupted = ""

    @precondition(lambda self: self.last is not None)
    @rule(mend=st.booleans())
    def retry_failed(self, mend: bool) -> None:
        assert self.last is not None
        if mend:
            self.server.set(Script())
            self.is_mended = True
            self.interrupted = ""  # its finished partitions have failures of before, which a resume keeps
        rows, instruction = self.of_run[self.last.id]
        had_failures = bool(self.last.status()["rows_failed"])
        before = self.server.calls
        run = self.last.retry_failed()
        run.wait(timeout=60)
        if not had_failures:
            assert self.server.calls == before, "a retry of nothing made a call"
        self.remember(run, rows, instruction)
        self.check(run, rows, instruction, before, may_skip=True)
        self.last = run

    # -- how

    def launch(self) -> apwa.Run:
        self.before = self.server.calls
        run = self.table.run(model=self.model, store=self.store, scheduler="sync", progress=False)
        self.remember(run, list(self.rows), self.instruction)
        return run

    def remember(self, run: apwa.Run, rows: list[str], instruction: int) -> None:
        self.of_run[run.id] = (rows, instruction)

    def finish(self, run: apwa.Run) -> None:
        run.wait(timeout=60)
        self.check(run, list(self.rows), self.instruction, self.before)
        self.last = run

    def check(
        self, run: apwa.Run, rows: list[str], instruction: int, before: int, *, may_skip: bool = False
    ) -> None:
        """I1 and I2 for the result, I3 for the bill, and exactly the calls that had to be made."""
        result = run.result(status=True)
        assert len(result) == len(rows), "I1"
        assert result["text"].tolist() == rows, "I2: order"
        ok = [self.is_answerable(text) for text in rows]
        assert (result["_apwa_status"] == "ok").tolist() == ok, "I1: one status each, the right one"
        truth = self.severities()
        assert [None if pd.isna(s) else int(s) for s in result["severity"]] == [
            truth[instruction, text] if good else None for text, good in zip(rows, ok, strict=True)
        ], "each row has the answer to its own text"
        wanted = {(instruction, text) for text in rows if self.is_answerable(text)}
        made = Counter(self.requests_since(before))
        good = {request: n for request, n in made.items() if self.is_answerable(request[1])}
        new = wanted - self.answered
        assert set(good) <= new if may_skip else set(good) == new, (
            "paid for what was answered, or not for what was not"
        )
        assert all(n == 1 for n in good.values()), "the same request twice in one run"
        self.note_answers()

    def is_answerable(self, text: str) -> bool:
        if not text.strip():
            return False
        return self.is_mended or not text.startswith(("refuse", "filter"))

    def severities(self) -> dict[Request, int]:
        """What the server said, by request; the same each time it was asked."""
        said: dict[Request, int] = {}
        for call in self.log():
            if call.answer and call.status == 200 and not call.fault:
                severity = orjson.loads(call.answer)["severity"]
                assert said.setdefault(_request(call), severity) == severity
        return said

    def requests_since(self, before: int) -> list[Request]:
        return [_request(call) for call in self.server.log().calls[before:]]

    def wait_for_silence(self) -> None:
        self.server.wait_until(lambda stats: stats.in_flight == 0)
        for context in list(runtime()._runs.values()):
            if context.store == self.store:
                for _ in range(2000):
                    if not context.tasks:
                        break
                    _TICKER.wait(0.002)

    def note_answers(self) -> None:
        self.answered = self.durable()

    def count_the_losses(self) -> None:
        """After a kill: what was billed and is on no record is lost, and nothing else."""
        self.lost_calls = self.server.calls - self.first_call - self.journaled_calls()
        assert self.lost_calls >= 0
        self.answered = self.durable()

    def durable(self) -> set[Request]:
        """Requests whose answer a new process finds in the journal."""
        by_id = {f"chatcmpl-{call.n}": _request(call) for call in self.log()}
        runtime().journal(self.store, "default", store_prompts=False).flush()
        with Journal(self.store) as journal:
            journal.refresh()
            tables = [journal._library.read(segment) for segment in journal._library.segments]
            assert journal.stats().ignored == {}
        served = [row for table in tables for row in table.to_pylist() if row["outcome"] == "ok"]
        return {by_id[row["request_id"]] for row in served}

    def journaled_calls(self) -> int:
        journal = runtime().journal(self.store, "default", store_prompts=False)
        return sum(journal.paid_by(run_id).calls for run_id in self.of_run)

    @invariant()
    def the_bill_is_the_servers_log(self) -> None:
        """I3, and that each death lost what it lost once."""
        made = self.server.calls - self.first_call
        assert self.journaled_calls() == made - self.lost_calls


def _request(call: Call) -> Request:
    system = str(call.messages[0]["content"])
    instruction = max(k for k, words in enumerate(INSTRUCTIONS) if words in system)
    return instruction, call.text


_TICKER = threading.Event()
EXAMPLES = int(os.environ.get("APWA_EXAMPLES", "0"))
SEARCH = settings(
    max_examples=EXAMPLES or 20,
    stateful_step_count=25 if EXAMPLES else 10,
    derandomize=not EXAMPLES,  # the suite looks at the same examples each time; a larger search at new ones
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)


@pytest.mark.slow
@pytest.mark.timeout(0 if EXAMPLES else 240)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # threads that are killed
def test_no_order_of_events_loses_a_row_or_pays_an_answer_twice() -> None:
    with ScriptedServer(in_process=True) as server:
        RunsOfOneTable.server = server
        run_state_machine_as_test(RunsOfOneTable, settings=SEARCH)
