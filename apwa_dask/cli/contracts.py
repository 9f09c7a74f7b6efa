"""What the commands need of `apwa_dask.api`: the smallest interface to write and test them against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, Protocol, TypedDict, cast

__all__ = ["Api", "Estimate", "Planned", "Run", "RunInfo", "Status", "Table", "Tables", "api"]


class Status(TypedDict):
    """Plain data about a run. ``cost_usd`` is None where the price is unknown, ``rows_total`` while it is."""

    run_id: str
    name: str
    status: str
    message: NotRequired[str]
    rows_total: int | None
    rows_done: int
    rows_failed: int
    rows_cached: int
    rows_out: NotRequired[int | None]
    calls: int
    cost_usd: float | None
    budget_usd: float | None
    folder: str
    local_model: NotRequired[str]


class Table(Protocol):
    """A lazy table."""

    @property
    def columns(self) -> Any: ...

    def profile(self) -> Any:
        """Bounded metadata: ``as_dict()``, and text by ``str()``."""


Tables = Table | Mapping[str, Table]


class Estimate(Protocol):
    """A forecast; its text form is for people."""

    def as_dict(self) -> Mapping[str, Any]:
        """JSON data; ``cost_usd`` is ``{"low", "expected", "high"}``, or None for an unknown price."""


class Run(Protocol):
    """The handle of one run. ``resume`` and ``retry_failed`` return the handle of the run that goes on."""

    @property
    def id(self) -> str: ...
    @property
    def frame(self) -> Any: ...
    @property
    def failures(self) -> Any: ...
    @property
    def manifest(self) -> Mapping[str, Any]: ...

    def status(self) -> Status: ...
    def wait(self, timeout: float | None = None) -> Any: ...
    def stop(self) -> Any: ...
    def resume(self, **options: Any) -> Run: ...
    def retry_failed(self, **options: Any) -> Run: ...
    def costs(self) -> Any: ...
    def report(self, path: str) -> Any: ...
    def export(self, path: str, *, safe_csv: bool = True) -> Any: ...


class Planned(Protocol):
    """A plan bound to its tables."""

    def explain(self) -> Any: ...
    def estimate(self) -> Estimate: ...
    def to_yaml(self) -> str: ...
    def preview(self, n: int) -> Any:
        """A pandas frame: input beside output."""

    def run(self, **options: Any) -> Run: ...


class RunInfo(Protocol):
    """One line of the list of runs."""

    @property
    def run_id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def created(self) -> Any: ...
    @property
    def status(self) -> str: ...


class Api(Protocol):
    """The functions of `apwa_dask.api` that commands call."""

    def read(
        self, paths: Sequence[str], *, hide: Sequence[str], documents: bool, sample: int | None
    ) -> Tables: ...
    def plan(self, query: str, *tables: Table, model: Any, **named: Table) -> Planned: ...
    def load_plan(self, path: str, tables: Tables) -> Planned: ...
    def runs(self, store: str | None) -> Sequence[RunInfo]: ...
    def attach(self, run_id: str, store: str | None) -> Run: ...
    def purge(self, run_id: str, store: str | None) -> Any: ...


def api() -> Api:
    """The public functions; loaded when a command runs, so that ``apwa --help`` stays quick."""
    import importlib

    module: Any = importlib.import_module("apwa_dask.api")
    return cast(Api, module)
