"""`Toolbox`: the capabilities of one contract, checked against grants and tables, and run for one unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from apwa_dask.agents.capabilities import Capability, ToolResult, find_capability, why_unfit
from apwa_dask.agents.unit import NOTHING, Unit
from apwa_dask.errors import PlanError
from apwa_dask.models.types import ToolCall
from apwa_dask.plans.plan import Plan

__all__ = ["Toolbox", "check_tools"]

MAX_ARGUMENT_CHARS = 100_000
"""Longer arguments of one call are denied unread."""

_FREE_POWERS = ("pure", "reads")
_MOST_COLUMNS = 40


@dataclass(frozen=True)
class Toolbox:
    """The tools of one contract, checked against what the caller granted.

    Raises
    ------
    PlanError
        On `of`: an unknown name, a power that was not granted, or a tool without the tables it needs.
    """

    tools: Mapping[str, Capability] = field(default_factory=dict)
    tables: Mapping[str, pa.Schema] = field(default_factory=dict)
    """Columns of the tables that the contract lends its tools."""

    @classmethod
    def of(
        cls,
        names: Iterable[str],
        grants: Iterable[str] = (),
        tables: Mapping[str, pa.Schema] | None = None,
    ) -> Toolbox:
        """The tools of these names; `grants` names those whose ``network`` or ``writes`` power is allowed."""
        granted = frozenset(grants)
        tools = {name: find_capability(name) for name in names}
        for tool in tools.values():
            _check_power(tool, granted)
            _check_tables(tool, tables or {})
        return cls(tools, dict(tables or {}))

    @property
    def wire(self) -> tuple[Mapping[str, Any], ...]:
        """The tools as sent; those that read tables say which, with their columns."""
        told = _told(self.tables)
        return tuple(tool.wire_with(told if tool.reads_tables else "") for tool in self.tools.values())

    def objection(self, call: ToolCall) -> str | None:
        """Why this call may not run: an undeclared tool or unfit arguments; None when it may."""
        tool = self.tools.get(call.name)
        if tool is None:
            return f"no such tool; declared tools: {', '.join(self.tools) or 'none'}"
        if len(call.arguments) > MAX_ARGUMENT_CHARS:
            return f"arguments of {len(call.arguments):,} characters; at most {MAX_ARGUMENT_CHARS:,}"
        try:
            given = tool.arguments.model_validate_json(call.arguments or "{}")
        except ValidationError as error:
            return why_unfit(error)
        place = tool.undeclared_place(given)
        return None if place is None else f"{place}: a URL or a path, which this tool does not take"

    def run(self, call: ToolCall, unit: Unit = NOTHING) -> ToolResult:
        """Run a call in this thread, for this unit."""
        objection = self.objection(call)
        if objection is not None:
            return ToolResult(f"denied: {objection}", error=True, reason="a tool call was denied")
        return self.tools[call.name].run(call.arguments, unit)


def check_tools(plan: Plan, grants: Iterable[str] = ()) -> None:
    """Refuse a plan whose tools are unknown, more powerful than granted, or lack their tables.

    Raises
    ------
    PlanError
    """
    granted = frozenset(grants)
    for step in plan.llm_steps:
        tables = dict.fromkeys(step.contract.tables, pa.schema([]))
        Toolbox.of(step.contract.tools, granted, tables)


def _check_power(tool: Capability, granted: frozenset[str]) -> None:
    if tool.power in _FREE_POWERS or tool.name in granted:
        return
    raise PlanError(
        f"the tool {tool.name!r} has the power {tool.power!r}, which was not granted",
        why="an agent that reads rows must not change or send things unless you say so in code",
        fix=f'grants={{"{tool.name}"}} where you run the plan',
        code="PLAN-TOOL-POWER",
    )


def _check_tables(tool: Capability, tables: Mapping[str, pa.Schema]) -> None:
    if tables or not tool.needs_tables:
        return
    raise PlanError(
        f"the tool {tool.name!r} reads tables, and the step lends it none",
        why="a tool sees no table of the plan unless the step's contract names it",
        fix="tables=[...] in the step's contract: names of tables of the plan",
        code="PLAN-TOOL-TABLES",
    )


def _told(tables: Mapping[str, pa.Schema]) -> str:
    """One line a table: its name and its columns with their types."""
    return "\n".join(f"Table {name}: {_columns(schema)}" for name, schema in tables.items())


def _columns(schema: pa.Schema) -> str:
    shown = [f"{column.name} ({column.type})" for column in list(schema)[:_MOST_COLUMNS]]
    more = len(schema) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
