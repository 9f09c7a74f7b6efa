"""Plan -> stages: chains of row-local steps, cut where the plan's meaning needs all rows together.

Everything here is pure and deterministic: each process compiles the same plan to the same stages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from apwa_dask.plans.infer import infer
from apwa_dask.plans.lowering import Clustered, Joined, lowered
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.steps import FrameStep, Reduce, Step

__all__ = ["BOOKKEEPING", "INDEX_PREFIX", "Stage", "compile_plan", "physical_schema"]

ROW_ID, STATUS, ERROR = "_apwa_row", "_apwa_status", "_apwa_error"
INDEX_PREFIX = "_apwa_index_"
BOOKKEEPING = pa.schema([(ROW_ID, pa.string()), (STATUS, pa.string()), (ERROR, pa.string())])
"""Columns of every stored part before the visible ones. ``_apwa_status`` is null for a good row, else its
class.
"""

_KEEPS_INDEX = ("sort", "limit", "distinct", "sample")


@dataclass(frozen=True)
class Stage:
    """A piece of the plan with no barrier inside.

    Parameters
    ----------
    index : int
        Position among the stages; stages come after those they read.
    kind : str
        ``rows`` (a fused pipeline of row-local steps), ``frame`` (a frame step run by Dask) or ``reduce``.
    inputs : tuple of (str or int)
        Source aliases (str) or earlier stages (int).
    steps : tuple of Step
        The chain; one step for ``frame`` and ``reduce``.
    schema : pyarrow.Schema
        Declared schema of every part this stage writes, bookkeeping columns first.
    """

    index: int
    kind: Literal["rows", "frame", "reduce"]
    inputs: tuple[str | int, ...]
    steps: tuple[Step, ...]
    schema: pa.Schema

    @property
    def name(self) -> str:
        """Step ids, for progress and reports."""
        return " > ".join(step.id for step in self.steps) or "read"

    @property
    def calls_model(self) -> bool:
        return any(step.calls_model for step in self.steps)


def physical_schema(visible: pa.Schema, index: pa.Schema) -> pa.Schema:
    """Bookkeeping, then the index columns, then what the user sees."""
    return pa.schema([*BOOKKEEPING, *index, *visible])


def compile_plan(
    plan: Plan, catalog: Mapping[str, pa.Schema], indexes: Mapping[str, pa.Schema] | None = None
) -> tuple[Stage, ...]:
    """Cut a valid plan into stages.

    Parameters
    ----------
    plan : Plan
        Valid for `catalog`.
    catalog : mapping of str to pyarrow.Schema
        Visible columns of each source.
    indexes : mapping of str to pyarrow.Schema, optional
        Hidden index columns (``_apwa_index_0`` ...) of sources that came from frames.

    Returns
    -------
    tuple of Stage
        In an order in which each stage comes after those it reads; the last one holds the result.
    """
    plan = lowered(plan, catalog)
    schemas = infer(plan, catalog)
    needed = _reachable(plan)
    steps = [step for step in plan.steps if step.id in needed]
    readers = Counter(name for step in steps for name in step.inputs_from)
    index_of = {alias: (indexes or {}).get(alias, pa.schema([])) for alias in plan.sources}

    stages: list[Stage] = []
    home: dict[str, str | int] = {alias: alias for alias in plan.sources}
    for step in steps:
        index_of[step.id] = _index_after(step, index_of)
        schema = physical_schema(schemas[step.id], index_of[step.id])
        previous = stages[-1] if stages else None
        joins = (
            step.row_local
            and previous is not None
            and previous.kind == "rows"
            and previous.steps[-1].id == step.input
            and readers[step.input] == 1
            and plan.result != step.input
        )
        if joins and previous is not None:
            stages[-1] = Stage(previous.index, "rows", previous.inputs, (*previous.steps, step), schema)
        else:
            kind: Literal["rows", "frame", "reduce"] = "rows" if step.row_local else "frame"
            if isinstance(step, Reduce):
                kind = "reduce"
            inputs = tuple(home[name] for name in step.inputs_from)
            stages.append(Stage(len(stages), kind, inputs, (step,), schema))
        home[step.id] = stages[-1].index
    if not stages:
        alias = plan.result
        schema = physical_schema(catalog[alias], index_of[alias])
        stages.append(Stage(0, "rows", (alias,), (), schema))
    return tuple(stages)


def _reachable(plan: Plan) -> set[str]:
    steps = {step.id: step for step in plan.steps}
    needed: set[str] = set()
    todo = [plan.result]
    while todo:
        name = todo.pop()
        if name in steps and name not in needed:
            needed.add(name)
            todo.extend(steps[name].inputs_from)
    return needed


def _index_after(step: Any, index_of: Mapping[str, pa.Schema]) -> pa.Schema:
    """Row-local and row-picking steps keep the index of their input; the others begin a new one."""
    if isinstance(step, Clustered):
        return index_of[step.left]
    if isinstance(step, Joined) and step.how in ("semi", "anti"):
        return index_of[step.left]
    keeps = step.row_local or (isinstance(step, FrameStep) and getattr(step, "op", "") in _KEEPS_INDEX)
    return index_of[step.input] if keeps else pa.schema([])
