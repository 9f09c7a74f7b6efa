"""Programs of the tests of batch mode: ``python batch_children.py PROGRAM URL STORE [RUN_ID]``."""

from __future__ import annotations

import sys

import pandas as pd

import apwa_dask as apwa

ROWS = 60
TERMS = apwa.BatchTerms(max_requests=20, poll_first_s=0.02, poll_most_s=0.1)


def whole(url: str, store: str, run_id: str = "") -> None:
    model = apwa.Model("m", base_url=url, price=apwa.Price(1, 1))
    frame = pd.DataFrame({"text": [f"row {k}" for k in range(ROWS)]})
    table = apwa.from_pandas(frame, npartitions=3).map("severity", inputs="text", output={"severity": int})
    run = table.run(model=model, store=store, scheduler="threads", progress=False, mode=TERMS)
    print(run.id, flush=True)
    print(run.result()["severity"].tolist(), flush=True)


def resume(url: str, store: str, run_id: str) -> None:
    run = apwa.attach(run_id, store, progress=False).resume()
    print(run.result()["severity"].tolist(), flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
