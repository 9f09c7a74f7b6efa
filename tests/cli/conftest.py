"""The command line over fakes: the same interface as `apwa_dask.api`, scripted answers, everything noted."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import types
from collections.abc import Callable
from typing import Any

import dask.dataframe as dd
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from apwa_dask.cli import main
from apwa_dask.errors import RunError
from apwa_dask.execution.purging import Purged
from apwa_dask.models.model import Model
from apwa_dask.plans.explain import Range
from apwa_dask.plans.plan import Plan
from apwa_dask.store.journal import PurgeReport

RESULT = pd.DataFrame(
    {
        "text": ["battery died", "great \x1b[31mkettle\x1b[0m", "=1+1"],
        "severity": pd.array([4, 1, None], "Int64"),
    }
)
SEVERITY = {
    "id": "map_1",
    "op": "map",
    "input": "reviews",
    "contract": {"instruction": "Rate.", "inputs": ["text"], "output": {"severity": "integer"}},
}
FAILURES = pd.DataFrame(
    {
        "row_id": ["2"],
        "step": ["map_1"],
        "outcome": ["truncated"],
        "message": ["the answer reached 512 tokens"],
        "attempts": [2],
        "cost_usd": [0.01],
    }
)


class FakeProfile:
    def to_dict(self) -> dict[str, Any]:
        return {"name": "reviews", "rows": 3, "columns": [{"name": "text", "type": "string"}]}

    def __str__(self) -> str:
        return "reviews: 3 rows\n  text string"


class FakeTable:
    def profile(self) -> FakeProfile:
        return FakeProfile()


@dataclasses.dataclass
class FakeEstimate:
    cost_usd: Range | None

    def to_dict(self) -> dict[str, Any]:
        return {"calls": 3, "cost_usd": None if self.cost_usd is None else dataclasses.asdict(self.cost_usd)}

    def __str__(self) -> str:
        return "Estimate: 3 calls"


class FakePreview(pd.DataFrame):
    _metadata = ("estimate",)
    estimate = FakeEstimate(Range(0.10, 0.12, 0.15))


@dataclasses.dataclass
class FakeStory:
    row: str | int

    def to_dict(self) -> dict[str, Any]:
        return {"row_id": str(self.row), "status": "ok", "steps": []}

    def __str__(self) -> str:
        return f"Row {self.row}: ok\n  text  great \x1b[31mkettle"


@dataclasses.dataclass
class FakeRun:
    api: FakeApi
    id: str = "calm-otter"
    store: str = "memory://kept"
    ends: str = "done"
    spec: Any = dataclasses.field(
        default_factory=lambda: types.SimpleNamespace(budget={"usd": 2.0}, models={"": Model("gpt-test")})
    )
    folder: Any = dataclasses.field(
        default_factory=lambda: types.SimpleNamespace(url="/kept/runs/calm-otter")
    )

    def status(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": "reviews",
            "status": self.ends,
            "stages": 1,
            "stages_done": 1,
            "rows_in": 3,
            "rows_out": 3,
            "rows_failed": len(self.failures),
            "cost_usd": 0.25,
            "calls": 4,
            "local_model": False,
        }

    @property
    def frame(self) -> dd.DataFrame:
        return dd.from_pandas(RESULT, npartitions=2)

    @property
    def failures(self) -> pd.DataFrame:
        return FAILURES.head(self.api.failed_rows)

    def wait(self, timeout: float | None = None) -> None:
        self.api.calls.append(("wait", {}))
        if self.api.wait_raises is not None:
            raise self.api.wait_raises

    def resume(self, **options: Any) -> FakeRun:
        self.api.calls.append(("resume", options))
        return self

    def retry_failed(self, **options: Any) -> FakeRun:
        self.api.calls.append(("retry_failed", {}))
        self.api.failed_rows = 0
        return dataclasses.replace(self, id="calm-otter-again")

    def export(self, path: str, *, overwrite: bool = False) -> None:
        self.api.calls.append(("export", {"path": path, "overwrite": overwrite}))

    def report(self, path: str) -> None:
        self.api.calls.append(("report", {"path": path}))

    def dashboard(self, *, port: int = 0, show: bool = False) -> Any:
        self.api.calls.append(("dashboard", {"port": port, "show": show}))
        served = types.SimpleNamespace(url="http://127.0.0.1:8000/apwa", wait=lambda: None)
        return contextlib.nullcontext(served)

    def row(self, row: str | int) -> FakeStory:
        self.api.calls.append(("row", {"row": row}))
        return FakeStory(row)


@dataclasses.dataclass
class FakePlanned:
    api: FakeApi

    @property
    def plan(self) -> Plan:
        return Plan.model_validate({"sources": ["reviews"], "steps": [SEVERITY]})

    def explain(self, *, model: Any = None) -> str:
        return "1. map_1: severity \x1b]0;owned\x07of each row"

    def estimate(self, **options: Any) -> FakeEstimate:
        return FakeEstimate(self.api.cost_usd)

    def to_yaml(self) -> str:
        return "version: 1\nsources: [reviews]\n"

    def preview(self, n: int, *, seed: int = 0, model: Any = None, store: str | None = None) -> pd.DataFrame:
        self.api.calls.append(("preview", {"n": n, "seed": seed, "model": model, "store": store}))
        return FakePreview(RESULT.head(n))

    def run(self, **options: Any) -> FakeRun:
        self.api.calls.append(("run", options))
        return FakeRun(self.api)


@dataclasses.dataclass(frozen=True)
class FakeInfo:
    run_id: str
    name: str
    created_s: float
    status: str


class FakeApi(types.ModuleType):
    """Stands in for the module `apwa_dask.api`; `calls` is what commands asked of it, in order."""

    def __init__(self) -> None:
        super().__init__("apwa_dask.api")
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.cost_usd: Range | None = Range(0.10, 0.25, 0.50)
        self.failed_rows = 0
        self.wait_raises: BaseException | None = None
        self.plan_raises: BaseException | None = None
        self.kept = [
            FakeInfo("calm-otter", "reviews", 1_767_322_800.0, "done"),
            FakeInfo("brave-newt", "older", 1_767_236_400.0, "stopped"),
        ]

    def read(self, urlpath: list[str], **options: Any) -> FakeTable:
        self.calls.append(("read", {"urlpath": urlpath, **options}))
        return FakeTable()

    def plan(self, query: str, *tables: Any, **options: Any) -> FakePlanned:
        self.calls.append(("plan", {"query": query, "tables": len(tables), **options}))
        if self.plan_raises is not None:
            raise self.plan_raises
        return FakePlanned(self)

    def load_plan(self, path_or_yaml: str, tables: Any) -> FakePlanned:
        self.calls.append(("load_plan", {"path": path_or_yaml}))
        return FakePlanned(self)

    def runs(self, store: str | None) -> list[FakeInfo]:
        return self.kept

    def purge(self, run_id: str, store: str | None, *, answers: bool) -> Purged:
        self.calls.append(("purge", {"run_id": run_id, "store": store, "answers": answers}))
        return Purged(run_id, PurgeReport(3) if answers else None)

    def attach(self, run_id: str, store: str | None, **where: Any) -> FakeRun:
        self.calls.append(("attach", {"run_id": run_id, "store": store, **where}))
        if run_id not in {info.run_id for info in self.kept}:
            raise RunError(f"there is no run {run_id!r}", fix="apwa runs", code="RUN-UNKNOWN")
        return FakeRun(self, id=run_id)

    def named(self, name: str) -> list[dict[str, Any]]:
        """The arguments of each call of this name."""
        return [options for called, options in self.calls if called == name]


@pytest.fixture
def fake_api(monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    """`apwa_dask.api`, faked for one test."""
    fake = FakeApi()
    monkeypatch.setitem(sys.modules, "apwa_dask.api", fake)
    return fake


@pytest.fixture
def apwa(fake_api: FakeApi) -> Callable[..., Result]:
    """Run a command; nobody sits at the other end."""

    def call(*arguments: str, **options: Any) -> Result:
        result = CliRunner().invoke(main, list(arguments), **options)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


@pytest.fixture
def somebody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody can be asked."""
    monkeypatch.setattr("apwa_dask.cli.consent.can_ask", lambda: True)
    monkeypatch.setattr("apwa_dask.cli.kept_runs.can_ask", lambda: True)
