"""Whatever is done to a run, in whatever order: no row is lost or moved, no answer is paid for twice (I1 to I3).

A Hypothesis state machine (`machine.py`) runs, kills, freezes, resumes, edits the plan and the model, retries, inserts
rows, repartitions and reorders over random frames, files and fault scripts. `test_planted_defects.py` shows what it
finds; `test_crash.py` and `tests/faults` kill real processes. Larger searches: ``make machine EXAMPLES=300``.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from tests_execution_machine import RunsOfOneTable

from apwa_dask.testing import ScriptedServer

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
