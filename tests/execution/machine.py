"""The state machine behind the search of `test_state_machine.py`: what can be done to runs of one table, and the truth.

After each step the result, the journal's bill and the server's log must agree, and the number of new calls must be the
one that a set of answered requests predicts. The truth is taken from where the engine cannot touch it: the server's
log, the files that the machine itself wrote, and a reading of the journal's segments by themselves.
"""

from __future__ import annotations

import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pandas as pd
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests_execution_mortality import PATIENCE_S, Killed, Mortality

import apwa_dask as apwa
from apwa_dask.errors import SourceError
from apwa_dask.execution.compile import STATUS
from apwa_dask.execution.runtime import runtime
from apwa_dask.store.journal import Journal
from apwa_dask.testing import Call, Fault, On, Script, ScriptedServer

INSTRUCTIONS = ("rate the severity", "rate the severity of what is told")
TEMPERATURES = (None, 0.5)
FAULTS = (
    Fault("refusal", on="refuse"),
    Fault("content_filter", on="filter"),
    Fault("wrong_enum", on=On(prompt="spoil")),  # complete, kept, and of no use
)
FAILING = ("refuse", "filter", "spoil")
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


class Variant(NamedTuple):
    """What all requests of a run have in common, by number."""

    instruction: int = 0
    temperature: int = 0


Request = tuple[Variant, str]
"""And the row's text."""


class Asked(NamedTuple):
    """What a run was made of."""

    rows: list[str]
    variant: Variant
    files: dict[str, list[str]]


words = st.sampled_from(["red", "blue", "green", "", *FAILING, "tall", "  "])
texts = st.builds(lambda word, k: f"{word} {k}".strip() if word.strip() else word, words, st.integers(0, 12))
kinds = st.sampled_from(["range", "shuffled", "text", "twice", "files", "files"])


class RunsOfOneTable(RuleBasedStateMachine):
    """One table (a frame, or files), one store, any number of runs."""

    server: ScriptedServer

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.store = str(Path(self.folder.name) / "store")
        self.input = Path(self.folder.name) / "input"
        self.input.mkdir()
        self.files: dict[str, list[str]] = {}
        self.mortality = Mortality()
        self.variant, self.npartitions, self.is_mended = Variant(), 1, False
        self.asked: dict[str, Asked] = {}
        """By run."""
        self.interrupted = ""
        self.last: apwa.Run | None = None
        self.answered: set[Request] = set()
        self.lost_calls = 0
        self.server.set(Script(faults=FAULTS))
        self.first_call = self.server.calls

    def teardown(self) -> None:
        self.mortality.end(self.store)
        self.folder.cleanup()

    # -- what there is

    @initialize(rows=st.lists(texts, max_size=24), kind=kinds, npartitions=st.integers(1, 4))
    def begin(self, rows: list[str], kind: str, npartitions: int) -> None:
        self.rows, self.kind, self.npartitions = rows, kind, npartitions
        self.write()

    def write(self) -> None:
        """The files as they are from now on; those that do not change are left alone."""
        if self.kind != "files":
            return
        per_file = -(-max(len(self.rows), 1) // self.npartitions)
        starts = range(0, max(len(self.rows), 1), per_file)
        now = {f"{k}.parquet": self.rows[at : at + per_file] for k, at in enumerate(starts)}
        for name in self.files.keys() - now.keys():
            (self.input / name).unlink()
        for name, rows in now.items():
            if self.files.get(name) != rows:
                frame = pd.DataFrame({"text": pd.Series(rows, dtype="object")}).astype("string")
                frame.to_parquet(self.input / name)
        self.files = now

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
        if self.kind == "files":
            source = apwa.read(str(self.input), partition_rows=max(map(len, self.files.values())) or 1)
            assert isinstance(source, apwa.Table)
        else:
            source = apwa.from_pandas(self.frame, npartitions=self.npartitions)
        task = INSTRUCTIONS[self.variant.instruction]
        return source.map(task, inputs="text", output={"severity": int}, id="rate")

    @property
    def model(self) -> apwa.Model:
        return apwa.Model(
            "m",
            base_url=self.server.base_url,
            api_key_env="OPENAI_API_KEY",
            temperature=TEMPERATURES[self.variant.temperature],
        )

    # -- what can be done

    @rule(n=st.integers(1, 4))
    def repartition(self, n: int) -> None:
        self.npartitions = n
        self.write()

    @rule(data=st.data())
    def reorder(self, data: st.DataObject) -> None:
        self.rows = data.draw(st.permutations(self.rows))
        self.write()

    @rule(new=st.lists(texts, min_size=1, max_size=4), data=st.data())
    def insert_rows(self, new: list[str], data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.rows)))
        self.rows = [*self.rows[:at], *new, *self.rows[at:]]
        self.write()

    @rule()
    def edit_the_plan(self) -> None:
        self.variant = self.variant._replace(instruction=1 - self.variant.instruction)

    @rule()
    def edit_the_model(self) -> None:
        self.variant = self.variant._replace(temperature=1 - self.variant.temperature)

    @rule(in_a_new_process=st.booleans(), then=st.sampled_from(("", "retry", "mend and retry")))
    def run(self, in_a_new_process: bool, then: str) -> None:
        if in_a_new_process:
            self.journal.flush()
            self.mortality.reborn(self.store)
        self.finish(self.launch())
        if then:
            self.retry_failed(mend=then.startswith("mend"))

    @rule(
        point=st.sampled_from(POINTS),
        arrival=st.integers(1, 3),
        then=st.sampled_from(("", "resume", "edit a row and resume", "add rows and resume")),
    )
    def kill(self, point: str, arrival: int, then: str) -> None:
        self.mortality.arm(point, arrival)
        known = set(self.asked)
        run = None
        try:
            run = self.launch()
            run.wait(timeout=PATIENCE_S)
        except Killed:
            self.wait_for_silence()
        if not self.mortality.is_dead:  # it never came to that point so often
            assert run is not None
            self.mortality.disarm()
            self.finish(run)
            return
        self.mortality.reborn(self.store)
        born = [run_id for run_id in self.asked if run_id not in known]
        self.interrupted = born[0] if born else ""
        self.count_the_losses()
        if then.startswith("edit"):
            self.rows = ["tall 13", *self.rows[1:]]
        if then.startswith("add"):
            self.rows = [*self.rows, *(f"green {k}" for k in range(len(self.rows) + 1))]
        self.write()
        if then and born:
            self.resume()

    @rule(arrival=st.integers(1, 2))
    def freeze(self, arrival: int) -> None:
        """A process that stands still before its commit is taken for dead, and wakes up when all is done."""
        self.mortality.arm("commit.before", arrival, freezing=True)
        zombie = self.launch()
        while not self.mortality.frozen.wait(0.01) and not zombie._finished.is_set():
            continue
        if not self.mortality.frozen.is_set():
            self.mortality.disarm()
            self.finish(zombie)
            return
        self.mortality.reborn(self.store)
        self.interrupted = zombie.id
        self.count_the_losses()
        self.resume()
        heir = apwa.attach(zombie.id, self.store, scheduler="sync", progress=False)
        commits, calls = self.commits_of(zombie.id), self.server.calls
        self.mortality.thawed.set()
        zombie.wait(timeout=PATIENCE_S)
        assert self.commits_of(zombie.id) == commits, "a zombie has taken back what was committed"
        assert self.server.calls == calls, "a zombie has paid for what was done"
        self.check(heir, self.asked[heir.id], calls, may_skip=True)
        self.last = heir

    @precondition(lambda self: self.interrupted)
    @rule()
    def resume(self) -> None:
        run = apwa.attach(self.interrupted, self.store, scheduler="sync", progress=False)
        before = self.server.calls
        if self.has_changed(run):
            with pytest.raises(SourceError, match="not as they were"):
                run.resume()
            assert self.server.calls == before, "a resume that was refused made a call"
            run = self.remember(run.resume(on_change="redo"), self.asked[run.id].variant)
        else:
            run.resume()
        run.wait(timeout=PATIENCE_S)
        self.check(run, self.asked[run.id], before, may_skip=True)
        self.interrupted = ""

    @precondition(lambda self: self.last is not None)
    @rule(mend=st.booleans())
    def retry_failed(self, mend: bool) -> None:
        assert self.last is not None
        if mend:
            self.server.set(Script())
            self.is_mended = True
            self.interrupted = ""  # its finished partitions have failures of before, which a resume keeps
        asked = self.asked[self.last.id]
        before = self.server.calls
        if not self.last.status()["rows_failed"]:
            assert self.last.retry_failed() is self.last
            assert self.server.calls == before, "a retry of nothing made a call"
            return
        if self.has_changed(self.last):
            with pytest.raises(SourceError, match="not as they were"):
                self.last.retry_failed()
            run = self.remember(self.last.retry_failed(on_change="redo"), asked.variant)
        else:
            run = self.last.retry_failed()
            self.asked[run.id] = asked
        run.wait(timeout=PATIENCE_S)
        self.check(run, self.asked[run.id], before, may_skip=True, retried=asked.rows)
        self.last = run

    # -- how

    @property
    def journal(self) -> Journal:
        return runtime().journal(self.store, "default", store_prompts=False)

    def launch(self) -> apwa.Run:
        self.before = self.server.calls
        run = self.table.run(model=self.model, store=self.store, scheduler="sync", progress=False)
        return self.remember(run, self.variant)

    def remember(self, run: apwa.Run, variant: Variant) -> apwa.Run:
        self.asked[run.id] = Asked(list(self.rows), variant, dict(self.files))
        return run

    def has_changed(self, run: apwa.Run) -> bool:
        return self.asked[run.id].files != self.files

    def finish(self, run: apwa.Run) -> None:
        run.wait(timeout=PATIENCE_S)
        self.check(run, self.asked[run.id], self.before)
        self.last = run

    def check(
        self,
        run: apwa.Run,
        asked: Asked,
        before: int,
        *,
        may_skip: bool = False,
        retried: list[str] | None = None,
    ) -> None:
        """I1 and I2 for the result, I3 for the bill, and exactly the calls that had to be made."""
        result = run.result(status=True)
        assert len(result) == len(asked.rows), "I1"
        assert result["text"].tolist() == asked.rows, "I2: order"
        said = self.said()
        for text, status, value in zip(asked.rows, result["_apwa_status"], result["severity"], strict=True):
            expected = self.is_answerable(text, retried=retried is not None and text in retried)
            assert expected is None or (status == "ok") == expected, f"I1: {text!r} is {status}"
            right = said.get((asked.variant, text), set()) if status == "ok" else {None}
            assert (None if pd.isna(value) else int(value)) in right, f"{text!r} has not its own answer"
        wanted = {(asked.variant, text) for text in asked.rows if self.is_answerable(text)}
        made = Counter(_request(call) for call in self.server.log().calls[before:] if _is_first(call))
        good = {request: n for request, n in made.items() if self.is_answerable(request[1])}
        new = wanted - self.answered
        assert set(good) <= new if may_skip else set(good) == new, (
            "paid for what was answered, or not for what was not"
        )
        assert all(n == 1 for n in good.values()), "the same request twice in one run"
        if retried is None:
            assert not [key for key in made if key[1].startswith("spoil") and key in self.answered], (
                "asked again what was kept, though nobody asked to"
            )
        durable = self.durable()
        assert self.answered | set(good) <= durable, "a run has ended, and its answers are not kept"
        self.answered = durable

    def is_answerable(self, text: str, *, retried: bool = False) -> bool | None:
        """Whether the row comes out well. None where that hangs on which of its bad answers were kept."""
        if not text.strip():
            return False
        if not text.startswith(FAILING):
            return True
        if text.startswith("spoil") and self.is_mended and not retried:
            return None
        return self.is_mended

    def said(self) -> dict[Request, set[int]]:
        """What the server said, by request: the same each time, but for the answer to a reminder."""
        said: dict[Request, set[int]] = {}
        for call in self.server.log().calls[self.first_call :]:
            if call.answer and call.status == 200 and not call.fault:
                said.setdefault(_request(call), set()).add(orjson.loads(call.answer)["severity"])
        return said

    def wait_for_silence(self) -> None:
        self.server.wait_until(lambda stats: stats.in_flight == 0)
        for context in list(runtime()._runs.values()):
            if context.store == self.store:
                for _ in range(2000):
                    if not context.tasks:
                        break
                    _TICKER.wait(0.002)

    def count_the_losses(self) -> None:
        """After a death: what was billed and is on no record is lost; what was kept or committed is not."""
        self.lost_calls = self.server.calls - self.first_call - self.journaled_calls()
        assert self.lost_calls >= 0
        durable = self.durable()
        assert self.answered <= durable, "a death has taken what was kept"
        assert self.committed() <= durable, "a death has taken the answers of a committed partition"
        self.answered = durable

    def committed(self) -> set[Request]:
        """Requests behind the good rows that the interrupted run has committed."""
        if not self.interrupted:
            return set()
        run = apwa.attach(self.interrupted, self.store, scheduler="sync", progress=False)
        variant = self.asked[run.id].variant
        parts = [run.folder.read_part(record) for record in run.folder.committed(0).values()]
        rows = [row for part in parts for row in part.select(["text", STATUS]).to_pylist()]
        return {(variant, row["text"]) for row in rows if row[STATUS] is None}

    def commits_of(self, run_id: str) -> dict[str, bytes]:
        """The commit records as they lie on the disk."""
        place = Path(self.store) / "runs" / run_id / "commit"
        return {str(path): path.read_bytes() for path in place.rglob("*.json")}

    def durable(self) -> set[Request]:
        """Requests whose answer a new process finds in the journal."""
        by_id = {f"chatcmpl-{c.n}": _request(c) for c in self.server.log().calls if _is_first(c)}
        self.journal.flush()
        with Journal(self.store) as journal:
            journal.refresh()
            tables = [journal._library.read(segment) for segment in journal._library.segments]
            assert journal.stats().ignored == {}
        served = [row for table in tables for row in table.to_pylist() if row["outcome"] == "ok"]
        return {by_id[row["request_id"]] for row in served if row["request_id"] in by_id}

    def journaled_calls(self) -> int:
        return sum(self.journal.paid_by(run_id).calls for run_id in self.asked)

    @invariant()
    def the_bill_is_the_servers_log(self) -> None:
        """I3, and that each death lost what it lost once."""
        made = self.server.calls - self.first_call
        assert self.journaled_calls() == made - self.lost_calls, "I3: the bill is not the server's log"


def _request(call: Call) -> Request:
    system, text = (str(message["content"]) for message in call.messages[:2])
    instruction = max(k for k, words in enumerate(INSTRUCTIONS) if words in system)
    assert call.body is not None
    return Variant(instruction, TEMPERATURES.index(call.body.get("temperature"))), text


def _is_first(call: Call) -> bool:
    """Not the reminder after an answer of no use."""
    return len(call.messages) == 2


_TICKER = threading.Event()
