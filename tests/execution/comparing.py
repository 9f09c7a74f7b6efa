"""A join, a rank and a resolve, for tests and the processes that they kill: ``python comparing.py VERB URL STORE``."""

from __future__ import annotations

import sys
from typing import Any

import orjson
import pandas as pd

import apwa_dask as apwa
from apwa_dask.testing import ChatRequest

ROWS, BLOCKS = 48, 6
VERBS = ("join", "rank", "resolve")


def rows() -> pd.DataFrame:
    """Forty-eight names in six blocks; every second row of a block is the same thing as the one before it."""
    return pd.DataFrame(
        {
            "name": [f"thing {k // (2 * BLOCKS) * BLOCKS + k % BLOCKS} of {k}" for k in range(ROWS)],
            "block": [k % BLOCKS for k in range(ROWS)],
        }
    )


def table(verb: str, npartitions: int = 4) -> apwa.Table:
    ours = apwa.from_pandas(rows(), npartitions=npartitions, name="ours")
    if verb == "rank":
        return ours.rank("The largest last number.", k=6, inputs="name", width=4, id="ask")
    if verb == "resolve":
        return ours.resolve("The same thing?", inputs="name", on="block", id="ask")
    theirs = apwa.from_pandas(rows().iloc[::-1], npartitions=npartitions, name="theirs")
    return ours.join(
        theirs, "The same thing?", inputs=["name", "name_right"], on="block", how="left", id="ask"
    )


def answer(request: ChatRequest) -> Any:
    """Names with one number in front are the same; of candidates, the one with the largest last number is best."""
    assert request.schema is not None
    if "best" in request.schema["properties"]:
        candidates = [orjson.loads(line) for line in request.text.splitlines()[1:]]
        return {"best": max(candidates, key=lambda row: int(row[1].split()[-1]))[0]}
    names = [line.split(": ")[1] for line in request.text.splitlines() if line.startswith("name")]
    return {"match": names[0].split()[1] == names[1].split()[1]}


def started(verb: str, url: str, store: str) -> apwa.Run:
    model = apwa.Model("m", base_url=url, max_concurrency=4, price=apwa.Price(1, 1), api_key_env="")
    return table(verb).run(model=model, store=store, scheduler="threads", progress=False)


if __name__ == "__main__":
    run = started(*sys.argv[1:])
    print(run.id, flush=True)
    run.wait()
