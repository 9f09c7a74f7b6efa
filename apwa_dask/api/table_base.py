"""What every table is made of: sources, the steps so far, and how a step is added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import pyarrow as pa
from pydantic import BaseModel

from apwa_dask.api.naming import built, free_name, names_of, renamed_step
from apwa_dask.api.settings import check_plan
from apwa_dask.errors import PlanError
from apwa_dask.execution import launch as engine
from apwa_dask.plans.contract import Contract, Example
from apwa_dask.plans.infer import infer
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.schema import Schema
from apwa_dask.plans.steps import Step

__all__ = ["OutputLike", "TableBase"]

OutputLike = Schema | Mapping[str, Any] | type[BaseModel]


@dataclass(frozen=True, eq=False)
class TableBase:
    """Sources and the plan so far; immutable."""

    _sources: Mapping[str, engine.Source]
    _steps: tuple[Step, ...] = ()
    _head: str = ""
    _report: Any = field(default=None, repr=False)

    @property
    def schema(self) -> pa.Schema:
        """Visible columns after the steps so far."""
        return infer(self._as_plan(), self._catalog())[self._head]

    @property
    def columns(self) -> list[str]:
        """Names of the visible columns."""
        return list(self.schema.names)

    # -- inside

    def _catalog(self) -> dict[str, pa.Schema]:
        return {alias: source.schema for alias, source in self._sources.items()}

    def _as_plan(self, query: str = "") -> Plan:
        return Plan(query=query, sources=tuple(self._sources), steps=self._steps, output=self._head)

    def _with(self, step: Step) -> Self:
        grown = replace(self, _steps=(*self._steps, step), _head=step.id)
        check_plan(grown._as_plan(), self._catalog())
        return grown

    def _new_id(self, wanted: str | None, op: str) -> str:
        taken = {step.id for step in self._steps} | set(self._sources)
        if wanted is not None:
            return wanted
        number = 1
        while f"{op}_{number}" in taken:
            number += 1
        return f"{op}_{number}"

    def _contract(
        self,
        instruction: str,
        inputs: Sequence[str] | str | None,
        output: Schema,
        unit: str,
        tools: Sequence[str],
        model: str | None,
        examples: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
        tables: tuple[str, ...] = (),
    ) -> Contract:
        columns = self._text_columns() if inputs is None else names_of(inputs)
        shown = tuple(Example(inputs=dict(given), output=dict(answer)) for given, answer in examples)
        contract: Contract = built(
            Contract,
            instruction=instruction,
            inputs=columns,
            output=output,
            unit=unit,
            tools=tuple(tools),
            tables=tables,
            model=model,
            examples=shown,
        )
        return contract

    def _text_columns(self) -> tuple[str, ...]:
        schema = self.schema
        text = tuple(f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type))
        return text or tuple(schema.names)

    def _lending(self, tables: TableBase | Sequence[TableBase]) -> tuple[Self, tuple[str, ...]]:
        """This table with those lent to a step's tools in the same plan; and their names there."""
        both, names = self, []
        for table in (tables,) if isinstance(tables, TableBase) else tables:
            if table._steps:
                raise PlanError(
                    "a table lent to tools must be as it was read",
                    why=f"this one has the step {table._head!r}, and tools may be called before it has run",
                    fix="run it first and lend its result: apwa.from_pandas(run.result())",
                    code="PLAN-TOOL-TABLES",
                )
            both, name = both._beside(table)
            names.append(name)
        return both, tuple(names)

    def _beside(self, other: TableBase) -> tuple[Self, str]:
        """This table with another's sources and steps in the same plan; and the other's name there."""
        renamed: dict[str, str] = {}
        sources = dict(self._sources)
        taken = set(sources) | {step.id for step in self._steps}
        for alias, source in other._sources.items():
            same = sources.get(alias) is source
            renamed[alias] = alias if same or alias not in taken else free_name(alias, taken)
            sources[renamed[alias]] = source
            taken.add(renamed[alias])
        steps = list(self._steps)
        for step in other._steps:
            if step in steps and all(renamed[name] == name for name in step.inputs_from):
                renamed[step.id] = step.id
                continue
            renamed[step.id] = step.id if step.id not in taken else free_name(step.id, taken)
            taken.add(renamed[step.id])
            steps.append(renamed_step(step, renamed))
        return replace(self, _sources=sources, _steps=tuple(steps)), renamed[other._head]
