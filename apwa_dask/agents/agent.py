"""`Agent`: one contract at one model. It turns rows into conversations and keeps nothing between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from apwa_dask.agents.capabilities import ToolResult
from apwa_dask.agents.clean import BadInput
from apwa_dask.agents.conversation import Conversation, RowConversation, Terms
from apwa_dask.agents.limits import room_of
from apwa_dask.agents.packs import PackConversation, Packed, PackTerms, pack_rows, packed
from apwa_dask.agents.prompts import answer_reader, build_template, has_media, render_row
from apwa_dask.agents.toolbox import Toolbox
from apwa_dask.agents.unit import NOTHING, Row, Tables, Unit
from apwa_dask.errors import PlanError
from apwa_dask.models.model import Model
from apwa_dask.models.types import Template, ToolCall
from apwa_dask.plans.steps import FlatMap, LLMStep, Reduce

__all__ = ["Agent", "Conversation"]


class Agent:
    """The agent of one map, filter or flat_map step. Built once per process and step; thread-safe; picklable.

    Parameters
    ----------
    step : LLMStep
        Not a `Reduce`: that is worked on by `ReduceAgent`.
    model : Model
    input_schema : pyarrow.Schema
        Columns of the table the step reads.
    grants : iterable of str
        Names of tools whose ``network`` or ``writes`` power the caller allows.
    tables : mapping of str to pyarrow.Table
        The tables that the contract lends its tools, by alias.

    Raises
    ------
    PlanError
        The contract does not fit the table, or names a tool that is unknown or not granted.
    """

    def __init__(
        self,
        step: LLMStep,
        model: Model,
        input_schema: pa.Schema,
        grants: Iterable[str] = (),
        tables: Mapping[str, pa.Table] | None = None,
    ) -> None:
        if isinstance(step, Reduce):
            raise PlanError(
                f"step {step.id!r} is a reduce, which has an agent of its own", fix="ReduceAgent(...)"
            )
        contract = step.contract
        self.step, self.model, self.input_schema, self.grants = step, model, input_schema, frozenset(grants)
        self._tables = Tables(tables)
        lent = {name: table.schema for name, table in self._tables.items()}
        self._toolbox = Toolbox.of(contract.tools, self.grants, lent)
        if contract.tools and contract.unit != "row":
            raise PlanError(
                f"step {step.id!r} has tools and the unit {contract.unit!r}",
                why="rows that share a prompt could steer each other's tools",
                fix="unit: row",
                code="PLAN-TOOL-UNIT",
            )
        self._inputs = pa.schema([f for f in input_schema if f.name in contract.inputs]).remove_metadata()
        template = build_template(step, model, input_schema, self._toolbox.wire)
        self._terms = Terms(
            template,
            answer_reader(step, model),
            room_of(template, contract),
            contract.limits,
            max_rows=step.max_rows if isinstance(step, FlatMap) else None,
            toolbox=self._toolbox,
        )
        shares_prompts = contract.unit == "partition" or contract.pack_rows is not None
        self._packs = PackTerms.of(step, model, self._terms) if shares_prompts else None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.step, self.model, self.input_schema, self.grants, self._tables)

    @property
    def template(self) -> Template:
        """The constant part of requests about one row."""
        return self._terms.template

    def begin(self, row: Mapping[str, Any], index: int = 0) -> RowConversation:
        """The conversation about one row, by column name; over at once when the row has no usable input."""
        tail = render_row(self.step.contract, row)
        if isinstance(tail, BadInput):
            return RowConversation.ended(self._terms, tail.outcome, tail.message, index)
        return RowConversation(self._terms, tail, index, self._unit(row))

    def begin_many(self, rows: Sequence[Mapping[str, Any]]) -> list[Conversation]:
        """Conversations that together give one outcome for each row, keyed by its position in `rows`.

        For unit ``row`` one each. For ``pack(n)`` and ``partition`` rows share prompts as far as they fit;
        rows without usable input, and rows with images, are alone.
        """
        if self._packs is None:
            return [self.begin(row, index) for index, row in enumerate(rows)]
        alone: list[Conversation] = []
        sharing: list[Packed] = []
        for index, row in enumerate(rows):
            tail = render_row(self.step.contract, row)
            if isinstance(tail, BadInput):
                alone.append(RowConversation.ended(self._terms, tail.outcome, tail.message, index))
            elif any(has_media(row.get(column)) for column in self.step.contract.inputs):
                alone.append(RowConversation(self._terms, tail, index))
            else:
                sharing.append(packed(self.step.contract, index, row, tail))
        packs = pack_rows(self._packs, sharing, self.step.contract.pack_rows)
        return [self._conversation(self._packs, pack) for pack in packs] + alone

    def run_tool(self, call: ToolCall, unit: Unit = NOTHING) -> ToolResult:
        """Run one of this agent's declared tools in this thread. Failures are results, never raised."""
        return self._toolbox.run(call, unit)

    def _unit(self, row: Mapping[str, Any]) -> Unit:
        return Unit(Row(row, self._inputs), self._tables) if self._toolbox.tools else NOTHING

    def _conversation(self, terms: PackTerms, pack: Sequence[Packed]) -> Conversation:
        if len(pack) == 1:
            return RowConversation(self._terms, pack[0].tail, pack[0].index)
        return PackConversation(terms, pack)
