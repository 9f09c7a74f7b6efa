"""What the commands need of `apwa_dask.api`: the smallest interface to write and test them against."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from apwa_dask.models.model import Model
    from apwa_dask.plans.explain import Range
    from apwa_dask.plans.plan import Plan

__all__ = ["Api", "Estimate", "Planned", "Run", "RunInfo", "RunSpec", "Table", "Tables", "api"]


class Table(Protocol):
    """A lazy table."""

    def profile(self) -> Any:
        """Bounded metadata: ``to_dict()``, and text by ``str()``."""


Tables = Table | Mapping[str, Table]


class Estimate(Protocol):
    """A forecast; its text form is for people."""

    @property
    def cost_usd(self) -> Range | None:
        """None where the price is unknown."""

    def to_dict(self) -> dict[str, Any]:
        """JSON data."""


class RunSpec(Protocol):
    """What a run was asked to do."""

    @property
    def budget(self) -> Mapping[str, Any]: ...
    @property
    def models(self) -> Mapping[str, Model]: ...


class RunFolder(Protocol):
    """Where a run is kept."""

    @property
    def url(self) -> str: ...


class Run(Protocol):
    """The handle of one run.

    ``wait`` raises what stopped the run. On Ctrl-C it stops dispatch, waits for the calls in flight, and
    raises KeyboardInterrupt; on a second one it does so at once. ``resume`` and ``retry_failed`` return the
    handle of the run that goes on, which is already at work.
    """

    @property
    def id(self) -> str: ...
    @property
    def store(self) -> str: ...
    @property
    def spec(self) -> RunSpec: ...
    @property
    def folder(self) -> RunFolder: ...
    @property
    def frame(self) -> Any: ...
    @property
    def failures(self) -> Any: ...

    def status(self) -> Mapping[str, Any]:
        """Plain data: ``id, name, status, stages, stages_done, rows_in, rows_out, rows_failed, calls``,
        ``cost_usd`` (None where the price is unknown) and ``local_model``."""

    def wait(self, timeout: float | None = None) -> Any: ...
    def resume(self, **options: Any) -> Run: ...
    def retry_failed(self, **options: Any) -> Run: ...
    def report(self, path: str) -> Any: ...
    def dashboard(self, *, port: int = 0, show: bool = False) -> Any: ...
    def row(self, row: str | int) -> Any:
        """The story of a row; its text form is for people."""

    def export(self, path: str, *, overwrite: bool = False) -> Any: ...


class Planned(Protocol):
    """A plan bound to its tables."""

    @property
    def plan(self) -> Plan: ...
    def explain(self, *, model: Any = None) -> Any: ...
    def estimate(
        self,
        *,
        model: Any = None,
        mode: Any = None,
        store: str | None = None,
        max_concurrency: int | None = None,
    ) -> Estimate: ...
    def to_yaml(self) -> str: ...
    def preview(self, n: int, *, seed: int = 0, model: Any = None, store: str | None = None) -> Any:
        """A pandas frame, input beside output, with the `estimate` of the whole run in an attribute."""

    def run(self, **options: Any) -> Run: ...


class RunInfo(Protocol):
    """One line of the list of runs; ``created_s`` is in Unix seconds."""

    @property
    def run_id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def created_s(self) -> float: ...
    @property
    def status(self) -> str: ...


class Api(Protocol):
    """The functions of `apwa_dask.api` that commands call."""

    def read(
        self, urlpath: Sequence[str], *, hide: Sequence[str], documents: bool, sample: int | None
    ) -> Tables: ...
    def plan(self, query: str, *tables: Tables, model: Any, store: str | None) -> Planned: ...
    def load_plan(self, path_or_yaml: str, tables: Tables) -> Planned: ...
    def runs(self, store: str | None) -> Iterable[RunInfo]: ...
    def attach(
        self, run_id: str, store: str | None, *, client: Any = None, scheduler: str | None = None
    ) -> Run: ...
    def purge(self, run_id: str, store: str | None, *, answers: bool) -> Any: ...


def api() -> Api:
    """The public functions; loaded when a command runs, so that ``apwa --help`` stays quick."""
    module: Any = importlib.import_module("apwa_dask.api")
    return cast(Api, module)
