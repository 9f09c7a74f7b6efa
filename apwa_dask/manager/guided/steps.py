"""From a filled form to steps: conditions and expressions are written here, never by a small model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from apwa_dask.manager.guided import cues, said
from apwa_dask.manager.guided.forms import ALL_ROWS
from apwa_dask.manager.guided.sketch import Sketch, quoted_name
from apwa_dask.plans.steps import Filter

__all__ = [
    "all_labels",
    "count",
    "judge",
    "keep",
    "kept",
    "labels",
    "number",
    "order",
    "overview",
    "said_meanings",
    "share",
    "text",
    "values",
    "with_file_name",
    "with_period",
    "with_split",
]

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


# --- columns


def keep(choice: Choice, sketch: Sketch, question: str) -> Sketch:
    """Rows for which every condition holds."""
    return kept(choice["keep"], sketch)


def kept(parts: Sequence[Choice], sketch: Sketch) -> Sketch:
    """Rows for which all of these hold; each has a column, how it is compared, and the value."""
    conditions = []
    for part in parts:
        sketch, column = sketch.with_measure(part["column"])
        conditions.append(_condition(column, part["is"], part["value"], sketch))
    return sketch.with_step("where", condition=" AND ".join(dict.fromkeys(conditions)))


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


def count(choice: Choice, sketch: Sketch, question: str) -> Sketch:
    """Rows, in all or by a column; only counts within a bound where one is given."""
    name = sketch.new_name("count") if choice["each"] == "count" else "count"
    counted = sketch.with_step("aggregate", by=_by(choice), aggregates={name: {"fn": "count"}})
    only = choice.get("only")
    if not isinstance(only, Mapping):
        return counted
    return counted.with_step("where", condition=_condition(name, only["is"], only["value"], counted))


def number(choice: Choice, sketch: Sketch, question: str) -> Sketch:
    """Average, total, smallest or largest, in all or by a column."""
    sketch, column = sketch.with_measure(choice["column"])
    stem = re.sub(r"\W", "_", column)[:48]
    rule = {"fn": _FUNCTIONS[choice["fn"]], "column": column}
    name = f"{choice['fn']}_{stem}"
    return sketch.with_step("aggregate", by=_by(choice), aggregates={name: rule})


def order(choice: Choice, sketch: Sketch, question: str) -> Sketch:
    """Rows in order, all of them or the first few."""
    sketch, column = sketch.with_measure(choice["column"])
    ordered = sketch.with_step("sort", by=[{"column": column, "descending": choice["order"] == "largest"}])
    if choice["first"] == ALL_ROWS:
        return ordered
    return ordered.with_step("limit", n=int(choice["first"]))


def _by(choice: Choice) -> list[str]:
    return [] if choice["each"] == ALL_ROWS else [choice["each"]]


_PERIODS = {"year": "{0}", "decade": "{0} // 10 * 10", "century": "{0} // 100 * 100"}


def with_period(sketch: Sketch, question: str) -> tuple[Sketch, str]:
    """The plan with the decade, year, ... that the question wants a text for, and that column; as it was without."""
    period = cues.period_of(question)
    years = [name for name in sketch.numbers if "year" in name.lower()] + sketch.times
    if not period or not years:
        return sketch, ""
    if period in sketch.schema.names:
        return sketch, period
    name = quoted_name(years[0])
    if period == "month":
        value = f"strftime({name}, '%Y-%m')" if years[0] in sketch.times else name
    else:
        value = _PERIODS[period].format(
            f"year({name})" if years[0] in sketch.times else f"CAST({name} AS INTEGER)"
        )
    column = sketch.new_name(period)
    return sketch.with_step("assign", columns={column: value}), column


def with_split(sketch: Sketch, question: str) -> tuple[Sketch, str]:
    """The plan with a column of the two parts of "before 1900, and from 1900 on"; as it was without such words."""
    value = said.split_at(question)
    columns = [name for name in sketch.comparable(value) if name in sketch.schema.names] if value else []
    if value is None or not columns:
        return sketch, ""
    column, at = sketch.new_name("period"), f"{value:g}"
    parts = f"CASE WHEN {quoted_name(columns[0])} < {at} THEN 'before {at}' ELSE 'from {at}' END"
    return sketch.with_step("assign", columns={column: parts}), column


def with_file_name(sketch: Sketch, question: str) -> Sketch:
    """The plan with the column `file`, where it is asked for and there are paths."""
    wanted = re.search(r"\breturn (?:the )?files?\b", question, re.IGNORECASE)
    if not wanted or "path" not in sketch.schema.names or "file" in sketch.schema.names or sketch.aggregated:
        return sketch
    bare = (
        "true"
        if re.search(r"without (?:the )?(?:ending|extension|suffix)", question, re.IGNORECASE)
        else "false"
    )
    return sketch.with_step("assign", columns={"file": f"parse_filename(path, {bare})"})


# --- reading


def judge(choice: Choice, sketch: Sketch, question: str) -> Sketch:
    """Rows whose text meets a condition."""
    instruction = f"Decide whether the input meets this condition: {choice['condition'].strip()}"
    contract = {"instruction": instruction, "inputs": [_column(choice, sketch)], "output": Filter.verdict()}
    return sketch.with_step("filter", contract=contract)


def share(choice: Choice, sketch: Sketch, question: str) -> Sketch:
    """The part of the rows, 0 to 1, whose text meets a condition."""
    name = sketch.new_name("meets")
    output = {name: {"type": "boolean", "description": choice["condition"].strip()}}
    instruction = f"Decide whether the input meets this condition: {choice['condition'].strip()}"
    judged = _map(sketch, _column(choice, sketch), instruction, output)
    return judged.with_step("aggregate", by=[], aggregates={"share": {"fn": "mean", "column": name}})


def labels(choice: Choice, sketch: Sketch, question: str) -> Sketch:
    """A label of each kind for each text, with its meaning where one is known."""
    meanings = {**choice.get("meanings", {}), **said_meanings(choice, question)}
    output: dict[str, Any] = {}
    for answer in _different(choice["answers"]):
        wanted = answer["name"] if answer["name"] not in _labels(answer) else "label"
        name = _fresh(wanted, sketch, output)
        output[name] = {
            "type": "string",
            "description": f"the {wanted.replace('_', ' ')} that fits best",
            "labels": {label: meanings.get(label, "") for label in _labels(answer)},
        }
    instruction = f"Read the input and choose the label that fits it best for: {_and(list(output))}."
    return _map(sketch, _column(choice, sketch), instruction, output)


def all_labels(choice: Choice) -> list[str]:
    """The labels of all answers, each once."""
    return list(dict.fromkeys(label for answer in choice["answers"] for label in _labels(answer)))


def said_meanings(choice: Choice, question: str) -> dict[str, str]:
    """The question's own words in parentheses after a label, such as ``billing (charges, refunds)``."""
    found = {}
    for label in all_labels(choice):
        told = re.search(rf"(?<!\w){re.escape(label)}\s*\(([^()]+)\)", question, re.IGNORECASE)
        if told:
            found[label] = " ".join(told.group(1).split())
    return found


def _different(answers: Sequence[Choice]) -> list[Choice]:
    """Without those that offer the same labels again."""
    by_labels: dict[frozenset[str], Choice] = {}
    for answer in answers:
        by_labels.setdefault(frozenset(_labels(answer)), answer)
    return list(by_labels.values())


def _labels(answer: Choice) -> list[str]:
    return list(dict.fromkeys(label.strip() for label in answer["labels"]))


def values(choice: Choice, sketch: Sketch, question: str) -> Sketch:
    """Values that stand in a text, null where it has none; what a column holds already is not looked for."""
    wanted = [value for value in choice["values"] if value["name"] not in sketch.schema.names]
    output: dict[str, Any] = {}
    for value in wanted or choice["values"]:
        output[_fresh(value["name"], sketch, output)] = {
            "type": _KINDS[value.get("kind", "text")],
            "description": value["meaning"].strip(),
            "nullable": True,
        }
    instruction = f"Find {_and(list(output))} in the input, as it is written there."
    return _map(sketch, _column(choice, sketch), instruction, output)


_REDACTED = (
    (
        "Hi, I am Ana Silva, call me on 555-0199 or write to ana@mail.example.",
        "Hi, I am [NAME], call me on [PHONE] or write to [EMAIL].",
    ),
    ("When does the shop open?", "When does the shop open?"),
    (
        "Ship it to 12 Hill Road, Leeds. The card is 4929 1111 2222 3333.",
        "Ship it to [ADDRESS]. The card is [CARD].",
    ),
)
"""Worked answers: without them a 1.5B model answers the texts, or repeats the entity, instead of redacting it."""


def text(choice: Choice, sketch: Sketch, question: str) -> Sketch:
    """A new text for each row."""
    name = _fresh(choice["name"], sketch, {})
    column = _column(choice, sketch)
    shown = _REDACTED if cues.redacts(question) else ()
    return _map(
        sketch,
        column,
        choice["task"].strip(),
        {name: {"type": "string", "description": "the new text"}},
        [{"inputs": {column: before}, "output": {name: after}} for before, after in shown],
    )


def overview(choice: Choice, sketch: Sketch, question: str) -> Sketch:
    """One text about all rows, or about each group."""
    by = _by(choice)
    name = choice["name"] if choice["name"] not in by else f"{choice['name']}_text"
    contract = {
        "instruction": choice["task"].strip(),
        "inputs": [_column(choice, sketch)],
        "output": {name: {"type": "string", "description": "one text about all of them"}},
        **({"unit": "group"} if by else {}),
    }
    return sketch.with_step("reduce", by=by, contract=contract)


def _column(choice: Choice, sketch: Sketch) -> str:
    return str(choice["column"]) if "column" in choice else sketch.readable[0]


def _map(
    sketch: Sketch,
    column: str,
    instruction: str,
    output: Mapping[str, Any],
    examples: Sequence[Mapping[str, Any]] = (),
) -> Sketch:
    contract: dict[str, Any] = {"instruction": instruction, "inputs": [column], "output": dict(output)}
    if examples:
        contract["examples"] = list(examples)
    return sketch.with_step("map", contract=contract)


def _fresh(wanted: str, sketch: Sketch, beside: Mapping[str, Any]) -> str:
    name, number = sketch.new_name(wanted), 1
    while name in beside:
        number += 1
        name = sketch.new_name(f"{wanted}_{number}")
    return name


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
