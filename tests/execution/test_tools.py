"""Tools in a run: declared in the plan, run in the worker's process, never more power than granted."""

from __future__ import annotations

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.agents import capabilities
from apwa_dask.errors import PlanError
from apwa_dask.testing import Rule


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(capabilities, "_registry", dict(capabilities._registry))


def test_a_declared_tool_runs_and_its_result_reaches_the_model(
    scripted_server, canary_key, tmp_path, registry
):
    seen: list[str] = []

    @apwa.capability(power="pure")
    def area_code(city: str) -> str:
        """Dialling code of a city."""
        seen.append(city)
        return "030" if city == "Berlin" else "unknown"

    rules = (
        Rule("Berlin", {"tool_calls": [{"name": "area_code", "arguments": {"city": "Berlin"}}]}, turn=0),
        Rule("030", {"code": "030"}, where="prompt"),
    )
    server = scripted_server(rules=rules, answers="fail")
    table = apwa.from_pandas(pd.DataFrame({"city": ["Berlin"]}))
    out = table.map("Give the dialling code.", inputs="city", output={"code": str}, tools=["area_code"])
    model = apwa.Model("m", base_url=server.base_url)
    result = out.run(model=model, store=str(tmp_path), progress=False).result()
    assert result["code"].tolist() == ["030"]
    assert seen == ["Berlin"]
    assert server.calls == 2


def test_a_tool_that_writes_needs_a_grant_in_code(scripted_server, canary_key, tmp_path, registry):
    @apwa.capability(power="writes")
    def delete_account(name: str) -> str:
        """Delete an account."""
        return "deleted"

    server = scripted_server(answers="fail")
    table = apwa.from_pandas(pd.DataFrame({"city": ["Berlin"]}))
    out = table.map("Do it.", inputs="city", output={"code": str}, tools=["delete_account"])
    model = apwa.Model("m", base_url=server.base_url)
    with pytest.raises(PlanError, match="delete_account"):
        out.run(model=model, store=str(tmp_path), progress=False).wait()
    assert server.calls == 0


def test_an_unknown_tool_is_refused_with_candidates():
    table = apwa.from_pandas(pd.DataFrame({"city": ["Berlin"]}))
    with pytest.raises(PlanError, match="area_coda"):
        table.map("x", inputs="city", output={"code": str}, tools=["area_coda"])
