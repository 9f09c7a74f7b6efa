"""Many rows into one answer, as a tree of bounded prompts: packing, templates and conversations of its nodes.

Items are rows (leaves) or notes (what lower nodes wrote). A group that fits one prompt is answered at once;
else each pack of items becomes notes, and notes are packed again, until one prompt is left for the typed
answer. Packing depends on the items and their order only: the tree is the same in every run, on any workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

import orjson
import pyarrow as pa

from apwa_dask.agents.answers import AnswerReader
from apwa_dask.agents.clean import BadInput, cell_value, clean_text
from apwa_dask.agents.conversation import RowConversation, Terms
from apwa_dask.agents.describe import column_name
from apwa_dask.agents.limits import Room, first_ceiling, room_of
from apwa_dask.agents.prompts import check_inputs, compact_json, row_cells
from apwa_dask.agents.tokens import estimate_tokens
from apwa_dask.agents.wording import Ask, system_text
from apwa_dask.errors import PlanError
from apwa_dask.models.model import Model
from apwa_dask.models.types import Message, OutcomeClass, Template
from apwa_dask.plans.schema import Schema
from apwa_dask.plans.steps import LLMStep

__all__ = ["NOTES", "Item", "Node", "ReduceAgent", "pack_items", "reduce_template", "render_items"]

Item = str | Mapping[str, Any]
"""Notes of a lower node, or a row's cleaned inputs."""

Node = Literal["notes", "answer"]
"""An inner node of the tree, or its root."""

NOTES = Schema.of({"notes": {"type": "string", "description": "everything in this part that the task needs"}})
_SEPARATOR_TOKENS = 8
_NOTES_FAN_IN = 4


def reduce_template(step: LLMStep, model: Model, input_schema: pa.Schema, node: Node = "answer") -> Template:
    """The constant part of all prompts of the tree's inner nodes (``notes``) or of its root (``answer``).

    Raises
    ------
    PlanError
        An input is no column, or an example has no usable input.
    """
    contract = step.contract
    check_inputs(step, input_schema)
    schema = contract.output if node == "answer" else NOTES
    ceiling = first_ceiling(contract, model, schema)
    ask = Ask(node, contract.instruction.strip(), contract.inputs, schema)
    messages = [Message("system", system_text(ask, model.prompts))]
    if node == "answer":
        for example in contract.examples:
            shown = render_items(_example_items(step, example.inputs))
            answer = {name: cell_value(example.output.get(name)) for name in contract.output.names}
            messages += [shown, Message("assistant", compact_json(answer))]
    template = Template(model, tuple(messages), schema.json_schema(), node, max_output_tokens=ceiling)
    if node == "answer":
        return template
    # Notes are read again: several of one level must fit the next prompt, or the tree would not shrink.
    room = room_of(template, contract).packing_tokens
    return template.with_output_tokens(max(min(ceiling, room // _NOTES_FAN_IN), 1))


def render_items(items: Sequence[Item]) -> Message:
    """One user message: rows as JSON arrays under a line with the columns, notes under numbered headings.

    A row's text is JSON, so that it cannot end its line and pass for another row.
    """
    blocks: list[str] = []
    number = 0
    for is_notes, run in groupby(items, key=lambda item: isinstance(item, str)):
        if is_notes:
            for notes in run:
                number += 1
                blocks.append(f"Notes {number}:\n{clean_text(str(notes))}")
            continue
        rows = [item for item in run if isinstance(item, Mapping)]
        header = orjson.dumps([column_name(column) for column in rows[0]]).decode()
        blocks.append("\n".join([header, *map(_line, rows)]))
    return Message("user", "\n\n".join(blocks))


def pack_items(items: Sequence[Item], token_budget: int, *, at_least: int = 1) -> list[list[Item]]:
    """Cut items, in order, into prompts of at most `token_budget` tokens (estimated). Deterministic.

    Parameters
    ----------
    items : sequence of Item
    token_budget : int
        For the items of one prompt.
    at_least : int
        Items of one prompt even where they pass the budget, the last prompt excepted. 2 above the leaves,
        so that every level is smaller than the one below.

    Returns
    -------
    list of list of Item
        Every item exactly once, in order.
    """
    packs: list[list[Item]] = []
    used = 0
    for item in items:
        tokens = item_tokens(item)
        if packs and (used + tokens <= token_budget or len(packs[-1]) < at_least):
            packs[-1].append(item)
            used += tokens
        else:
            packs.append([item])
            used = tokens
    return packs


def item_tokens(item: Item) -> int:
    """Estimated tokens of one item in a prompt."""
    return _SEPARATOR_TOKENS + estimate_tokens(item if isinstance(item, str) else _line(item))


class ReduceAgent:
    """The agent of a reduce step: one conversation a node. Built once per process and step; picklable.

    Parameters
    ----------
    step : LLMStep
    model : Model
    input_schema : pyarrow.Schema
        Columns of the table the step reads.

    Raises
    ------
    PlanError
        The contract does not fit the table, or it has tools: rows could steer each other's.
    """

    def __init__(self, step: LLMStep, model: Model, input_schema: pa.Schema) -> None:
        if step.contract.tools:
            raise PlanError(
                f"the reduce step {step.id!r} has tools",
                why="rows that share a prompt could steer each other's tools",
                fix="call tools in a map step before it",
                code="PLAN-TOOL-UNIT",
            )
        self.step, self.model, self.input_schema = step, model, input_schema
        self._terms = {"notes": self._terms_of("notes"), "answer": self._terms_of("answer")}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.step, self.model, self.input_schema)

    @property
    def token_budget(self) -> int:
        """Tokens of the items of one prompt, for either kind of node."""
        return max(min(terms.room.packing_tokens for terms in self._terms.values()), 1)

    def template(self, node: Node = "answer") -> Template:
        """The constant part of the requests of this kind of node."""
        return self._terms[node].template

    def item(self, row: Mapping[str, Any]) -> Item | BadInput:
        """The row's inputs as an item; `BadInput` when it has none that a prompt can hold."""
        cells = row_cells(self.step.contract, row)
        if isinstance(cells, BadInput):
            return cells
        if cells[1]:
            return BadInput(f"column {cells[1][0][0]}: images cannot be reduced; describe them in a map step")
        return {column: cell_value(row.get(column)) for column in self.step.contract.inputs}

    def packs(self, items: Sequence[Item]) -> list[list[Item]]:
        """The prompts of one level. A single pack is the root: begin it with node ``answer``."""
        leaves = any(not isinstance(item, str) for item in items)
        return pack_items(items, self.token_budget, at_least=1 if leaves else 2)

    def begin(self, items: Sequence[Item], node: Node, index: int = 0) -> RowConversation:
        """The conversation of one node. Notes are in ``values["notes"]`` of an inner node's outcome."""
        terms = self._terms[node]
        if not items:
            return RowConversation.ended(
                terms, OutcomeClass.BAD_INPUT, "nothing to reduce: no row has usable input", index
            )
        return RowConversation(terms, (render_items(items),), index)

    def _terms_of(self, node: Node) -> Terms:
        template = reduce_template(self.step, self.model, self.input_schema, node)
        schema = self.step.contract.output if node == "answer" else NOTES
        room: Room = room_of(template, self.step.contract)
        reader = AnswerReader(schema, strict=self.model.structured == "json_schema")
        return Terms(template, reader, room, self.step.contract.limits)


def _line(row: Mapping[str, Any]) -> str:
    return orjson.dumps([cell_value(value) for value in row.values()]).decode()


def _example_items(step: LLMStep, inputs: Mapping[str, Any]) -> list[Item]:
    """An example's rows: columns given as lists are several rows, else it is one."""
    columns = [inputs.get(name) for name in step.contract.inputs]
    lists = [column for column in columns if isinstance(column, (list, tuple))]
    if len(lists) < len(columns):
        lists = [[column] for column in columns]
    if len({len(column) for column in lists}) != 1 or not lists[0]:
        raise PlanError(
            f"an example of step {step.id!r} has columns of different lengths, or no rows",
            fix="give every input a list of the same length, or one value",
            code="PLAN-EXAMPLE",
        )
    return [dict(zip(step.contract.inputs, values, strict=True)) for values in zip(*lists, strict=True)]
