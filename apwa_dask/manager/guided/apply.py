"""From a choice to steps: conditions and expressions are written here, never by a small model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from apwa_dask.manager.guided.choices import ALL_ROWS
from apwa_dask.manager.guided.sketch import Sketch, quoted_name
from apwa_dask.plans.steps import Filter

__all__ = ["applied"]

Choice = Mapping[str, Any]

_SYMBOLS = {
    "equal to": "=",
    "not equal to": "<>",
    "above": ">",
    "below": "<",
    "at least": ">=",
    "at most": "<=",
    "before": "<",
    "after": ">",
    "on": "=",
}
_FUNCTIONS = {"average": "mean", "total": "sum", "smallest": "min", "largest": "max"}
_KINDS = {"text": "string", "number": "number", "date": "date", "yes or no": "boolean"}


def applied(choice: Choice, sketch: Sketch, question: str) -> Sketch:
    """The plan grown by one choice.

    Raises
    ------
    KeyError, TypeError, ValueError
        The choice has another shape than its schema.
    PlanError
        The choice names what is not there.
    """
    verb = choice["do"]
    return _VERBS[verb](choice, sketch, question).done(verb)


# --- columns


def _keep(choice: Choice, sketch: Sketch, question: str) -> Sketch:
    sketch, column = sketch.with_measure(choice["column"])
    how, value = choice["is"], choice["value"]
    return sketch.with_step("where", condition=_condition(column, how, value, sketch))


def _condition(column: str, how: str, value: Any, sketch: Sketch) -> str:
    name = quoted_name(column)
    if isinstance(value, bool):
        return name if value else f"NOT {name}"
    if isinstance(value, (int, float)):
        number = int(value) if float(value).is_integer() else value
        return f"{name} {_SYMBOLS[how]} {number}"
    if column in sketch.times:
        return f"CAST({name} AS DATE) {_SYMBOLS[how]} DATE {_literal(value)}"
    if value in sketch.complete_values.get(column, ()):
        return f"{name} {_SYMBOLS[how]} {_literal(value)}"
    lowered = _literal(value.lower())
    if how == "containing":
        return f"contains(lower({name}), {lowered})"
    if how == "starting with":
        return f"starts_with(lower({name}), {lowered})"
    return f"lower({name}) {_SYMBOLS[how]} {lowered}"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _count(choice: Choice, sketch: Sketch, question: str) -> Sketch:
    name = "count" if choice["each"] != "count" else "rows"
    return sketch.with_step("aggregate", by=_by(choice), aggregates={name: {"fn": "count"}})


def _number(choice: Choice, sketch: Sketch, question: str) -> Sketch:
    sketch, column = sketch.with_measure(choice["column"])
    stem = re.sub(r"\W", "_", column)[:48]
    name = f"{choice['fn']}_{stem}"
    rule = {"fn": _FUNCTIONS[choice["fn"]], "column": column}
    return sketch.with_step("aggregate", by=_by(choice), aggregates={name: rule})


def _by(choice: Choice) -> list[str]:
    return [] if choice["each"] == ALL_ROWS else [choice["each"]]


def _sort(choice: Choice, sketch: Sketch, question: str) -> Sketch:
    sketch, column = sketch.with_measure(choice["column"])
    return sketch.with_step("sort", by=[{"column": column, "descending": choice["order"] == "largest"}])


def _first(choice: Choice, sketch: Sketch, question: str) -> Sketch:
    return sketch.with_step("limit", n=int(choice["n"]))


# --- reading


def _judge(choice: Choice, sketch: Sketch, question: str) -> Sketch:
    instruction = f"Decide whether the input meets this condition: {choice['condition'].strip()}"
    contract = {"instruction": instruction, "inputs": [choice["column"]], "output": Filter.verdict()}
    return sketch.with_step("filter", contract=contract)


def _label(choice: Choice, sketch: Sketch, question: str) -> Sketch:
    output: dict[str, Any] = {}
    for answer in choice["answers"]:
        labels = {entry["label"].strip(): _meaning(entry, question) for entry in answer["labels"]}
        output[_fresh(answer["name"], sketch, output)] = {
            "type": "string",
            "description": answer["asks"].strip(),
            "labels": labels,
        }
    instruction = f"Read the input and choose the label that fits it best for: {_and(list(output))}."
    return _map(sketch, choice["column"], instruction, output)


def _meaning(entry: Mapping[str, str], question: str) -> str:
    """The question's own words in parentheses after a label, where it has them; else the planner's."""
    said = re.search(rf"(?<!\w){re.escape(entry['label'].strip())}\s*\(([^()]+)\)", question, re.IGNORECASE)
    return " ".join((said.group(1) if said else entry["meaning"]).split())


def _extract(choice: Choice, sketch: Sketch, question: str) -> Sketch:
    output: dict[str, Any] = {}
    for field in choice["fields"]:
        output[_fresh(field["name"], sketch, output)] = {
            "type": _KINDS[field["kind"]],
            "description": field["meaning"].strip(),
            "nullable": True,
        }
    instruction = f"Find {_and(list(output))} in the input, as it is written there."
    return _map(sketch, choice["column"], instruction, output)


def _rewrite(choice: Choice, sketch: Sketch, question: str) -> Sketch:
    name = _fresh(choice["name"], sketch, {})
    return _map(sketch, choice["column"], choice["task"].strip(), {name: {"type": "string"}})


def _overview(choice: Choice, sketch: Sketch, question: str) -> Sketch:
    by = _by(choice)
    name = choice["name"] if choice["name"] not in by else f"{choice['name']}_text"
    contract = {
        "instruction": choice["task"].strip(),
        "inputs": [choice["column"]],
        "output": {name: {"type": "string"}},
        **({"unit": "group"} if by else {}),
    }
    return sketch.with_step("reduce", by=by, contract=contract)


def _map(sketch: Sketch, column: str, instruction: str, output: Mapping[str, Any]) -> Sketch:
    contract = {"instruction": instruction, "inputs": [column], "output": dict(output)}
    return sketch.with_step("map", contract=contract)


def _fresh(wanted: str, sketch: Sketch, beside: Mapping[str, Any]) -> str:
    name, number = sketch.new_name(wanted), 1
    while name in beside:
        number += 1
        name = sketch.new_name(f"{wanted}_{number}")
    return name


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


_VERBS: dict[str, Callable[[Choice, Sketch, str], Sketch]] = {
    "keep": _keep,
    "judge": _judge,
    "label": _label,
    "extract": _extract,
    "rewrite": _rewrite,
    "overview": _overview,
    "count": _count,
    "number": _number,
    "sort": _sort,
    "first": _first,
}
