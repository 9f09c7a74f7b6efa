"""From a contract to prompts: the constant part once, then each row as literal text.

Nothing here formats user text: instructions, column names and cells are joined, never interpreted, so that
braces, tags and role names in them mean nothing. Row text appears in the user role only.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa

from apwa_dask.agents.answers import VERDICT, AnswerReader, VerdictReader, flat_map_schema
from apwa_dask.agents.clean import BadInput, cell_text, cell_value, media_part
from apwa_dask.agents.describe import column_name
from apwa_dask.agents.limits import first_ceiling
from apwa_dask.agents.wording import Ask, system_text
from apwa_dask.errors import PlanError, candidates
from apwa_dask.models.model import Model
from apwa_dask.models.types import Message, Template
from apwa_dask.plans.contract import Contract
from apwa_dask.plans.schema import Schema
from apwa_dask.plans.steps import Filter, FlatMap, LLMStep, Map

_UTF8 = codecs.getincrementaldecoder("utf-8")

__all__ = [
    "answer_reader",
    "answer_schema",
    "build_template",
    "check_inputs",
    "compact_json",
    "example_output",
    "has_media",
    "render_row",
    "row_cells",
    "system_message",
]


def answer_schema(step: LLMStep, model: Model) -> Schema:
    """What the model is asked for about one row.

    The contract's output; ``{rows: [output]}`` for `FlatMap`; `VERDICT` for a `Filter` at a small model.
    """
    if isinstance(step, FlatMap):
        return flat_map_schema(step.contract.output)
    return VERDICT if _asks_verdict(step, model) else step.contract.output


def answer_reader(step: LLMStep, model: Model) -> AnswerReader:
    """Reads what `answer_schema` asks for. Unasked fields are errors where the endpoint decodes strictly."""
    strict = model.structured == "json_schema"
    return (
        VerdictReader(strict=strict)
        if _asks_verdict(step, model)
        else AnswerReader(answer_schema(step, model), strict=strict)
    )


def _asks_verdict(step: LLMStep, model: Model) -> bool:
    return isinstance(step, Filter) and model.prompts == "small"


def build_template(
    step: LLMStep, model: Model, input_schema: pa.Schema, tools: Sequence[Mapping[str, Any]] = ()
) -> Template:
    """The constant part of the requests of one step with unit ``row``: byte-identical for every row.

    Parameters
    ----------
    step : LLMStep
        Its contract says what the agent is told, sees and answers.
    model : Model
        Its ``prompts`` chooses the style of words, its limits the ceiling of the answer.
    input_schema : pyarrow.Schema
        Columns of the table the step reads; every input of the contract must be among them.
    tools : sequence of mapping
        Function tools in the wire format.

    Raises
    ------
    PlanError
        An input is no column, or an example lacks its inputs.
    """
    contract = step.contract
    check_inputs(step, input_schema)
    schema = answer_schema(step, model)
    messages = [system_message(step, model)]
    for example in contract.examples:
        shown = render_row(contract, example.inputs)
        if isinstance(shown, BadInput):
            raise PlanError(
                f"an example of step {step.id!r} has no usable input: {shown.message}",
                fix=f"give each example values for {', '.join(contract.inputs)}",
                code="PLAN-EXAMPLE",
            )
        messages += [*shown, Message("assistant", compact_json(example_output(step, example.output, model)))]
    json_schema = schema.json_schema()
    if isinstance(step, FlatMap) and model.prompts == "small":
        json_schema["properties"]["rows"]["maxItems"] = step.max_rows  # a small model may not stop by itself
    return Template(
        model=model,
        messages=tuple(messages),
        schema=json_schema,
        schema_name=step.op if isinstance(step, (Filter, FlatMap)) else "answer",
        max_output_tokens=first_ceiling(contract, model, schema),
        tools=tuple(tools),
    )


def render_row(contract: Contract, row: Mapping[str, Any]) -> tuple[Message, ...] | BadInput:
    """One row's own message: its inputs as literal text, images and sounds as parts. Equal rows give equal bytes.

    A row whose inputs are all missing is `BadInput`; a missing cell beside others is named, never spelled.
    """
    cells = row_cells(contract, row)
    if isinstance(cells, BadInput):
        return cells
    texts, images, missing = cells
    if len(contract.inputs) == 1 and texts:
        return (Message("user", texts[0][1]),)
    multiline = any("\n" in text for _, text in texts)
    blocks = [f"{name}:\n{text}" if "\n" in text else f"{name}: {text}" for name, text in texts]
    blocks += [f"{name}: {_medium(part)} {n}" for n, (name, part) in enumerate(images, start=1)]
    content = ("\n\n" if multiline else "\n").join(blocks)
    if missing:
        content += f"\n\nNot given: {', '.join(missing)}"
    if not images:
        return (Message("user", content),)
    parts: list[Mapping[str, Any]] = [{"type": "text", "text": content}]
    return (Message("user", tuple(parts + [image for _, image in images])),)


Cells = tuple[list[tuple[str, str]], list[tuple[str, dict[str, Any]]], list[str]]
"""Texts and images by column name, and the names of missing columns, each in the contract's order."""


def row_cells(contract: Contract, row: Mapping[str, Any]) -> Cells | BadInput:
    """The inputs of one row, cleaned and sorted into texts, images and missing ones."""
    texts: list[tuple[str, str]] = []
    images: list[tuple[str, dict[str, Any]]] = []
    missing: list[str] = []
    for column in contract.inputs:
        value, name = row.get(column), column_name(column)
        if has_media(value):
            part = media_part(value)
            if isinstance(part, BadInput):
                return BadInput(f"column {name}: {part.message}", part.outcome)
            if part is not None:
                images.append((name, part))
                continue
        try:
            text = cell_text(value)
        except (ValueError, TypeError, RecursionError):
            # Bytes in no UTF-8, numbers of thousands of digits, values nested deeper than JSON writers go.
            return BadInput(f"column {name}: a cell that cannot be written as text")
        if text is None:
            missing.append(name)
        else:
            texts.append((name, text))
    if not texts and not images:
        return BadInput("no input text: every input column of this row is empty or null")
    return texts, images, missing


def _medium(part: Mapping[str, Any]) -> str:
    return "recording" if part["type"] == "input_audio" else "image"


def has_media(value: Any) -> bool:
    """A cell that holds an image or a sound (bytes that are text are text)."""
    if isinstance(value, str) or value is None:
        return False
    content = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(content, (bytes, bytearray, memoryview)):
        return False
    return _is_binary(bytes(content[:4096]))


def _is_binary(head: bytes) -> bool:
    """No text: a NUL, or no UTF-8 (a character cut at the end of `head` is fine)."""
    try:
        _UTF8().decode(head)
    except UnicodeDecodeError:
        return True
    return b"\0" in head


def system_message(step: LLMStep, model: Model, key: str | None = None) -> Message:
    """The task and its rules in the model's style; with `key`, for a table of rows."""
    ask = Ask(
        kind=step.op if isinstance(step, (Map, Filter, FlatMap)) else "map",
        task=step.contract.instruction.strip(),
        inputs=step.contract.inputs,
        schema=answer_schema(step, model),
        key=key,
        max_rows=step.max_rows if isinstance(step, FlatMap) else 0,
    )
    return Message("system", system_text(ask, model.prompts))


def example_output(step: LLMStep, output: Mapping[str, Any], model: Model) -> dict[str, Any]:
    """An example's answer in the order and form in which the model must give it."""
    if isinstance(step, FlatMap):
        rows = (
            output["rows"]
            if set(output) == {"rows"} and isinstance(output["rows"], (list, tuple))
            else [output]
        )
        return {"rows": [_in_order(step.contract.output, row) for row in rows]}
    if _asks_verdict(step, model):
        return {"answer": "yes" if output.get("keep") else "no"}
    return _in_order(step.contract.output, output)


def _in_order(schema: Schema, output: Mapping[str, Any]) -> dict[str, Any]:
    return {name: cell_value(output.get(name)) for name in schema.names}


def compact_json(value: Any) -> str:
    """JSON without spaces: the shape that small models copy at half the tokens."""
    return orjson.dumps(value).decode()


def check_inputs(step: LLMStep, input_schema: pa.Schema) -> None:
    """Every input of the contract is a column.

    Raises
    ------
    PlanError
        With the columns there are.
    """
    for column in step.contract.inputs:
        if column not in input_schema.names:
            raise PlanError(
                f"step {step.id!r} reads the column {column!r}, which its input does not have",
                fix=candidates(column, input_schema.names, noun="columns"),
                code="PLAN-COLUMN",
            )
