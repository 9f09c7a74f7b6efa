"""U17: a manifest that its published schema accepts, and one small offline report, at a million rows too."""

from __future__ import annotations

import re
import resource
import time
from pathlib import Path

import jsonschema
import orjson
import pandas as pd

import apwa_dask as apwa
from apwa_dask.execution.manifest import manifest_schema
from apwa_dask.testing import Fault, On

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "docs" / "reference" / "manifest.schema.json"
MILLION = 1_000_000
EVIL = "<script>alert(1)</script>"


def test_u17_the_published_schema_is_the_one_in_use():
    assert orjson.loads(PUBLISHED.read_bytes()) == manifest_schema(), "write it anew: make schema"
    jsonschema.Draft202012Validator.check_schema(manifest_schema())


def test_u17_the_manifest_is_complete_and_valid(scripted_server, model_at, store):
    server = scripted_server(faults=(Fault("refusal", on=On(text="row 7$")),))
    table = apwa.from_pandas(pd.DataFrame({"text": [f"row {k}" for k in range(20)]}), npartitions=2)
    run = table.map("x", inputs="text", output={"a": int}).run(
        model=model_at(server), store=store, budget=1.0, progress=False
    )
    manifest = run.wait().manifest
    jsonschema.validate(manifest, orjson.loads(PUBLISHED.read_bytes()))
    assert manifest["outcomes"] == {"ok": 19, "refused": 1}
    assert manifest["actual"]["calls"] == server.calls
    assert manifest["estimate"]["cost_usd"]["expected"] > 0
    assert manifest["models_resolved"]
    assert manifest["versions"]["apwa-dask"] == apwa.__version__
    assert {part["kind"] for part in manifest["parts"]} == {"rows", "failures"}
    assert all(re.fullmatch(r"[0-9a-f]{64}", part["sha256"]) for part in manifest["parts"])


def test_u17_the_report_of_a_million_rows_is_one_small_offline_escaped_file(scripted_server, model_at, store):
    """A million rows through the store: all are numbered, six are asked about, one of these fails."""
    server = scripted_server(faults=(Fault("refusal", on=On(text="999999$")),))
    frame = pd.DataFrame({"n": range(MILLION), "text": [f"{EVIL} {k}" for k in range(MILLION)]})
    table = (
        apwa.from_pandas(frame, npartitions=20)
        .assign(double="n * 2")
        .concat(
            apwa.from_pandas(frame.iloc[-6:], name="last").map("x", inputs="text", output={"double": int})
        )
    )
    run = table.run(model=model_at(server), store=store, progress=False).wait(120)
    assert (run.status()["rows_out"], run.status()["rows_failed"]) == (MILLION + 6, 1)

    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun_s = time.monotonic()
    document = run.report()
    took_s = time.monotonic() - begun_s
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024

    assert len(document.encode()) <= 5_000_000
    assert "1,000,006" in document
    assert EVIL not in document
    assert "default-src &#39;none&#39;" in document
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", document)
    assert grown_mib < 500
    assert took_s < 120, f"{took_s:.1f} s"
