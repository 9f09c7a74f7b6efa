"""U1, U2: ten lines without a key; and looking costs nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

import apwa_dask as apwa

ROOT = Path(__file__).parents[2]
QUICKSTART = """
import pandas as pd
import apwa_dask as apwa
reviews = apwa.from_pandas(pd.DataFrame({"text": ["Battery died after a day", "Lovely screen"]}))
rated = reviews.map("Severity 1-5, and the product named.", output={"severity": int, "product": str})
print(rated.explain())
run = rated.run(store="store", progress=False)
assert run.result().columns.tolist() == ["text", "severity", "product"]
""".strip()


def test_u1_the_quickstart_has_at_most_ten_lines_and_needs_no_key(scripted_server, tmp_path):
    assert len(QUICKSTART.splitlines()) <= 10
    server = scripted_server()
    environment = {name: value for name, value in os.environ.items() if "KEY" not in name}
    environment |= {"OPENAI_BASE_URL": server.base_url, "OPENAI_MODEL": "m", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", QUICKSTART],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "How to" not in done.stderr
    assert server.calls == 2


def test_u2_estimate_explain_graph_and_prompt_make_no_call_at_all(scripted_server, model_at, store):
    server = scripted_server()
    model = model_at(server)
    frame = pd.DataFrame({"text": [f"row {k}" for k in range(30)], "city": ["Oslo", "Rome", "Bern"] * 10})
    plan = (
        apwa.from_pandas(frame, npartitions=2)
        .where("length(text) > 1")
        .flat_map("list it", inputs="text", output={"part": str})
        .filter("keep it?", inputs="part")
        .reduce("sum up", inputs="part", by="city", output={"summary": str})
        .plan()
    )
    assert plan.estimate(model=model, store=store).cost_usd.expected > 0
    assert "flat_map_1" in str(plan.explain(model=model))
    assert "flat_map_1" in repr(plan.graph())
    assert b"row 3" in plan.prompt_for({"text": "row 3"}, model=model)
    assert apwa.from_pandas(frame).profile().rows == 30
    assert server.calls == server.stats().reads == 0
