"""Programs that the tests start, kill and interrupt: ``python children.py PROGRAM URL STORE [RUN_ID]``."""

from __future__ import annotations

import sys

import pandas as pd

import apwa_dask as apwa

ROWS = 400


def frame() -> pd.DataFrame:
    return pd.DataFrame({"text": [f"row {k}" for k in range(ROWS)], "k": range(ROWS)})


def started(url: str, store: str) -> apwa.Run:
    """The run of every program here, its id told to the parent."""
    model = apwa.Model("m", base_url=url, max_concurrency=8, price=apwa.Price(1, 1))
    table = apwa.from_pandas(frame(), npartitions=8).map("severity", inputs="text", output={"severity": int})
    run = table.run(model=model, store=store, scheduler="threads", progress=False)
    print(run.id, flush=True)
    return run


def whole(url: str, store: str, run_id: str = "") -> None:
    print(started(url, store).result()["severity"].tolist(), flush=True)


def resume(url: str, store: str, run_id: str) -> None:
    run = apwa.attach(run_id, store, progress=False).resume()
    print(run.id, flush=True)
    print(run.result()["severity"].tolist(), flush=True)


def capped(url: str, store: str, run_id: str = "") -> None:
    """One partition and a ceiling of calls: nothing is committed before the ceiling is reached."""
    model = apwa.Model("m", base_url=url, max_concurrency=4)
    table = apwa.from_pandas(frame()).map("severity", inputs="text", output={"severity": int})
    run = table.run(model=model, store=store, budget=apwa.Budget(calls=60), progress=False)
    print(run.id, flush=True)
    run.wait()


def resume_capped(url: str, store: str, run_id: str) -> None:
    try:
        apwa.attach(run_id, store, progress=False).resume().wait()
    except apwa.ApwaError as reached:
        print(type(reached).__name__, flush=True)


def one_partition(url: str, store: str, run_id: str = "") -> None:
    """Forty priced rows in one partition: nothing is committed before the last is answered."""
    model = apwa.Model("m", base_url=url, max_concurrency=40, price=apwa.Price(1, 2))
    table = apwa.from_pandas(frame().head(40)).map("severity", inputs="text", output={"severity": int})
    run = table.run(model=model, store=store, scheduler="threads", progress=False)
    print(run.id, flush=True)
    run.wait()


def ends_early(url: str, store: str, run_id: str = "") -> None:
    started(url, store)
    sys.stdin.readline()


def interrupted(url: str, store: str, run_id: str = "") -> None:
    run = started(url, store)
    try:
        run.wait()
    except KeyboardInterrupt:
        print(run.status()["status"], flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
