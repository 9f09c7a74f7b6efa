"""The search of `test_state_machine.py` finds what it is there for: one defect at a time is planted, and it must fail.

Each search is bounded and looks at the same examples each time. ``make machine`` gives each of them more.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from tests_execution_machine import RunsOfOneTable

from apwa_dask.execution.asked_again import AskedAgain
from apwa_dask.execution.caller import JournaledCaller
from apwa_dask.models.model import Model
from apwa_dask.store.commit import CommitRecord, PartFile
from apwa_dask.store.journal import Journal
from apwa_dask.store.local_folder import LocalFolder
from apwa_dask.store.parts import Parts
from apwa_dask.store.record import Record
from apwa_dask.store.segment_writer import SegmentWriter
from apwa_dask.tables import changes, reading
from apwa_dask.testing import ScriptedServer

SEARCH = settings(
    max_examples=400 if "APWA_EXAMPLES" in os.environ else 120,
    stateful_step_count=10,
    derandomize=True,
    phases=[Phase.generate],  # the first find will do: nobody needs it small
    report_multiple_bugs=False,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)

Plant = Callable[[pytest.MonkeyPatch], None]


def a_record_is_forgotten_at_a_flush(patches: pytest.MonkeyPatch) -> None:
    write = SegmentWriter.write

    def forgetful(self: SegmentWriter, records: Sequence[Record]) -> None:
        if len(records) > 1:
            records = records[:-1]
        write(self, records)

    patches.setattr(SegmentWriter, "write", forgetful)


def a_flush_returns_too_early(patches: pytest.MonkeyPatch) -> None:
    patches.setattr(Journal, "flush", lambda self: None)


def a_key_omits_a_parameter(patches: pytest.MonkeyPatch) -> None:
    known = Model.canonical_parameters
    patches.setattr(Model, "canonical_parameters", lambda self: {**known(self), "temperature": None})


def stored_answers_come_back_to_other_rows(patches: pytest.MonkeyPatch) -> None:
    reuse = JournaledCaller.reuse
    patches.setattr(JournaledCaller, "reuse", lambda self, requests: reuse(self, requests[::-1]))


def a_second_attempt_commits_its_rows_in_another_order(patches: pytest.MonkeyPatch) -> None:
    write_part = Parts.write_part

    def reversing(self: Parts, stage: Any, partition: int, attempt: int, table: Any) -> PartFile:
        rows = table.take(list(range(table.num_rows))[::-1]) if attempt > 1 else table
        return write_part(self, stage, partition, attempt, rows)

    patches.setattr(Parts, "write_part", reversing)


def a_retry_replays_the_bad_answer(patches: pytest.MonkeyPatch) -> None:
    patches.setattr(AskedAgain, "allows", lambda self, request, record: True)


def a_retry_asks_for_all_rows_again(patches: pytest.MonkeyPatch) -> None:
    patches.setattr(AskedAgain, "allows", lambda self, request, record: record.run_id == self.run_id)


def a_resume_serves_rows_of_a_changed_file(patches: pytest.MonkeyPatch) -> None:
    patches.setattr(changes, "_same", lambda info, file, opener: True)
    patches.setattr(reading, "_refuse_changed", lambda info, opener: None)


def a_result_reads_an_attempt_that_nobody_committed(patches: pytest.MonkeyPatch) -> None:
    committed = Parts.committed

    def generous(self: Parts, stage: str | int) -> dict[int, CommitRecord]:
        found = committed(self, stage)
        known = {file.name for record in found.values() for file in record.files}
        data = self._folder.child("data").child(str(stage))
        for partition in data.folders():
            for entry in data.child(partition).entries():
                name = f"data/{stage}/{partition}/{entry.name}"
                if name in known or ".part." not in name or not found:
                    continue
                orphan = replace(
                    found[min(found)].part,
                    name=name,
                    sha256=hashlib.sha256(self._folder.read(name)).hexdigest(),
                )
                found[1000 + len(found)] = replace(found[min(found)], part=orphan)
        return found

    patches.setattr(Parts, "committed", generous)


def the_commit_of_a_zombie_wins(patches: pytest.MonkeyPatch) -> None:
    put_if_absent = LocalFolder.put_if_absent

    def overwriting(self: LocalFolder, name: str, data: bytes, *, point: str = "put") -> bytes:
        if point != "commit":
            return put_if_absent(self, name, data, point=point)
        self.write(name, data, point=point)
        return data

    patches.setattr(LocalFolder, "put_if_absent", overwriting)


FOUND_BY: dict[Plant, str] = {
    a_record_is_forgotten_at_a_flush: "are not kept|I3: the bill",
    a_flush_returns_too_early: "are not kept|has taken the answers of a committed partition",
    a_key_omits_a_parameter: "has not its own answer|or not for what was not",
    stored_answers_come_back_to_other_rows: "has not its own answer|I1: ",
    a_second_attempt_commits_its_rows_in_another_order: "I2: order",
    a_retry_replays_the_bad_answer: "I1: 'spoil",
    a_retry_asks_for_all_rows_again: "paid for what was answered",
    a_resume_serves_rows_of_a_changed_file: "DID NOT RAISE|I1|I2: order",
    a_result_reads_an_attempt_that_nobody_committed: "I1|RUN-ROWS",
    the_commit_of_a_zombie_wins: "a zombie has taken back",
}
"""The assertion that must see it."""


@pytest.mark.parametrize("plant", FOUND_BY, ids=lambda plant: plant.__name__)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # threads that are killed
def test_the_search_finds_that(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with ScriptedServer(in_process=True) as server:
        RunsOfOneTable.server = server
        with pytest.raises(BaseException, match=FOUND_BY[plant]):
            run_state_machine_as_test(RunsOfOneTable, settings=SEARCH)
