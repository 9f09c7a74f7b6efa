"""Faults 23 to 32 of the matrix (data), and 62 (everything fails): what a table can hold harms its row at most."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

import apwa_dask as apwa

MISSING: list[Any] = [None, np.nan, pd.NaT, pd.NA, "", "  \n", "​"]


def mapped(frame: pd.DataFrame, npartitions: int = 3, **options: Any) -> apwa.Table:
    given = {"inputs": "text", "output": {"a": str}, **options}
    return apwa.from_pandas(frame, npartitions=npartitions).map("say", **given)


def test_fault_23_missing_values_of_every_kind_make_no_call(
    scripted_server, model_at, canary_key, invariants, store
):
    server = scripted_server()
    frame = pd.DataFrame({"text": pd.Series(["row 0", *MISSING, "row 8"], dtype="object")})

    run = mapped(frame).run(model=model_at(server), store=store, progress=False)
    result = invariants.hold(run, server, frame, canary=canary_key)

    assert result["_apwa_status"].tolist() == ["ok", *["bad_input"] * 7, "ok"]
    assert server.calls == 2
    sent = "\n".join(str(m["content"]) for call in server.log() for m in call.messages)
    assert not re.search(r"\b(nan|None|NaT|NA|null)\b", sent)
