"""The seven invariants that hold whatever goes wrong, asserted from the server's own log and the stored run.

======  ===================================================================================================
I1      a map keeps every row: rows out are rows in, each row id occurs once, with one status
I2      order and index are the input's
I3      the ledger is the server's log: every billed attempt is listed
I4      paid again is at most what was in flight or unflushed when something died
I5      spent is at most the budget and what the calls in flight cost at most
I6      the key is in nothing that is left behind
I7      a run that was interrupted ends like one that was not
======  ===================================================================================================

`hold` asserts those of them that its arguments allow; the single functions serve tests that need fewer. Every
function takes the truth from where the engine cannot touch it: the log of the scripted server's process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import orjson
import pandas as pd
import pyarrow as pa
import pytest

import apwa_dask as apwa
from apwa_dask.execution.compile import ROW_ID, STATUS
from apwa_dask.models.types import OutcomeClass
from apwa_dask.testing import Call, ScriptedServer, ServerLog, grep_canary

OURS = ["_apwa_status", "_apwa_error"]
FINAL = {str(outcome) for outcome in OutcomeClass if not outcome.is_pending}


def hold(
    run: apwa.Run,
    server: ScriptedServer,
    frame: pd.DataFrame,
    *,
    paid_again: int = 0,
    interrupted: bool = False,
    canary: str = "",
    left_behind: Iterable[bytes | str | Path] = (),
    uninterrupted: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """I1 to I7 for a finished run whose steps are maps over `frame`; its result with status columns.

    Parameters
    ----------
    run : Run
        The only user of `server` since its start or last `reset`.
    paid_again : int
        Bound of I4: what was in flight or unflushed at the deaths of this test; 0 where nothing died.
    interrupted : bool
        A process died; I3 then allows for what it took with it.
    canary, left_behind
        The key, and where I6 looks for it besides the run's store, when that is local.
    uninterrupted : pandas.DataFrame, optional
        What `hold` returned for the same frame and script without any fault (I7).
    """
    result = run.result(status=True)
    i1_every_row_has_one_status(run, len(frame))
    i2_order_and_index_are_the_inputs(result, frame)
    i3_the_ledger_is_the_bill([run], server, lost=paid_again if interrupted else 0)
    i4_little_is_paid_again(server, paid_again)
    if canary:
        places = [Path(run.store)] if Path(run.store).exists() else []
        i6_the_key_is_nowhere(canary, [*places, *left_behind, repr(run), str(run.manifest)])
    if uninterrupted is not None:
        i7_the_result_is_as_if_nothing_had_happened(result, uninterrupted)
    return result


def i1_every_row_has_one_status(run: apwa.Run, rows_in: int) -> None:
    """Also: a row has a failure record exactly where its status says that it failed."""
    last = run.stages[-1]
    parts = [
        run.folder.read_part(record, [ROW_ID, STATUS]) for record in run.folder.committed(last.index).values()
    ]
    table = pa.concat_tables(parts)
    ids = table.column(ROW_ID).to_pylist()
    assert len(ids) == rows_in, f"I1: {len(ids)} rows out of {rows_in} rows in"
    assert len(set(ids)) == rows_in, f"I1: twice: {[k for k, n in Counter(ids).items() if n > 1][:5]}"
    statuses = dict(zip(ids, table.column(STATUS).to_pylist(), strict=True))
    strange = {status for status in statuses.values() if status is not None} - FINAL
    assert not strange, f"I1: not the end of a row: {strange}"
    failed = sorted(row for row, status in statuses.items() if status is not None)
    assert sorted(run.failures["row_id"]) == failed, "I1: failure records are not those of the failed rows"
    assert run.status()["rows_failed"] == len(failed), "I1: the count of failed rows"


def i2_order_and_index_are_the_inputs(result: pd.DataFrame, frame: pd.DataFrame) -> None:
    """The input's columns come back in place; which kind of null a cell of type object held is not kept."""
    columns = [str(name) for name in frame.columns]
    given, expected = _with_one_null(result[columns]), _with_one_null(frame.set_axis(columns, axis=1))
    pd.testing.assert_frame_equal(
        given, expected, check_dtype=False, check_index_type=False, check_column_type=False
    )


def i3_the_ledger_is_the_bill(runs: Iterable[apwa.Run], server: ScriptedServer, *, lost: int = 0) -> None:
    """The ledgers of `runs` list every billed call, to the token, and no call that the server has not seen.

    Parameters
    ----------
    lost : int
        Billed calls that a death may have taken with it: in flight or unflushed.
    """
    log = server.log()
    costs = pd.concat([run.costs() for run in runs], ignore_index=True)
    listed, billed = int(costs["calls"].sum()), len(log.billed)
    assert listed <= len(log), f"I3: {listed} calls listed, the server has seen {len(log)}"
    assert billed - listed <= lost, f"I3: {billed - listed} billed calls are not listed, {lost} could be lost"
    tokens = (int(costs["input_tokens"].sum()), int(costs["output_tokens"].sum()))
    if lost:
        assert all(ours <= theirs for ours, theirs in zip(tokens, log.billed_tokens, strict=True)), (
            "I3: tokens"
        )
    else:
        assert tokens == log.billed_tokens, "I3: tokens in the ledger, tokens at the server"


def i4_little_is_paid_again(server: ScriptedServer, allowed: int) -> None:
    """`allowed` is what was in flight or unflushed; a scripted retry belongs in it too."""
    again = paid_again(server.log())
    assert again <= allowed, f"I4: {again} calls were paid again, {allowed} could be"


def i5_spent_within(
    server: ScriptedServer, budget_usd: float, price: apwa.Price, in_flight: int, call_tokens: tuple[int, int]
) -> None:
    """`call_tokens` are the input and output tokens that a single call has at most."""
    spent = price.cost_usd(*server.log().billed_tokens)
    most = budget_usd + in_flight * price.cost_usd(*call_tokens)
    assert spent <= most, f"I5: spent ${spent:.6f}, at most ${most:.6f}"


def i6_the_key_is_nowhere(canary: str, places: Iterable[bytes | str | Path]) -> None:
    """Bytes, text, files and folders."""
    assert grep_canary(list(places), canary) == [], "I6: the key leaked"


def i7_the_result_is_as_if_nothing_had_happened(result: pd.DataFrame, uninterrupted: pd.DataFrame) -> None:
    """Values, order, index, dtypes and statuses."""
    pd.testing.assert_frame_equal(result, uninterrupted)


def i7_the_run_ends_the_same(run: apwa.Run, uninterrupted: apwa.Run) -> None:
    """The same for runs: also their parts, which no timing may change."""
    i7_the_result_is_as_if_nothing_had_happened(run.result(status=True), uninterrupted.result(status=True))
    assert _rows_of_parts(run) == _rows_of_parts(uninterrupted), "I7: the cut into partitions"


def paid_again(log: ServerLog) -> int:
    """Billed calls whose exact request had been billed before."""
    billed = Counter(_request(call) for call in log.billed)
    return sum(billed.values()) - len(billed)


def never_sent(server: ScriptedServer, *words: str) -> None:
    """None of these stands in any message that reached the server."""
    sent = "\n".join(str(message["content"]) for call in server.log() for message in call.messages)
    found = [word for word in words if word in sent]
    assert not found, f"in a prompt: {found}"


def stopped_with(run: apwa.Run, error: type[apwa.ApwaError], code: str) -> apwa.ApwaError:
    """Wait for a run that must stop; the error, which has to teach and to say what is saved."""
    with pytest.raises(error) as caught:
        run.wait(timeout=120)
    said: apwa.ApwaError = caught.value
    assert said.code == code, said
    assert said.fix, f"no way out is told: {said}"
    assert said.saved, f"what is kept is not told: {said}"
    assert run.status()["status"] in ("failed", "stopped")
    return said


def _with_one_null(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.astype(object).where(frame.notna(), None)


def _request(call: Call) -> bytes:
    body = call.body if call.body is not None else {"text": call.text_hash, "model": call.model}
    return orjson.dumps(body, option=orjson.OPT_SORT_KEYS)


def _rows_of_parts(run: apwa.Run) -> list[list[int]]:
    return [[record.rows_out for record in run.folder.committed(s.index).values()] for s in run.stages]
