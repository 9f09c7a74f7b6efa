"""Rows are counted into a stage and out of it: a run in which they differ stops."""

from __future__ import annotations

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.errors import RunError
from apwa_dask.execution.stages import check_consumed


@pytest.mark.parametrize("missing", [-1, 1])
def test_a_stage_that_read_other_rows_than_its_source_has_is_an_error(
    scripted_server, model_at, store, missing
):
    table = apwa.from_pandas(pd.DataFrame({"text": [f"row {k}" for k in range(9)]}), npartitions=3)
    made = table.map("say", inputs="text", output={"a": int})
    run = made.run(model=model_at(scripted_server()), store=store, progress=False).wait()
    (stage,), records = run.stages, run.folder.committed(0).values()

    check_consumed(stage, 9, records)
    with pytest.raises(RunError, match="RUN-ROWS") as told:
        check_consumed(stage, 9 + missing, records)

    assert "9" in str(told.value)
