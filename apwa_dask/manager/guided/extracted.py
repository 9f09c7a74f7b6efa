"""Steps for values that are read out of texts and then kept by, counted or reckoned with: never by the model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from apwa_dask.manager.guided import said
from apwa_dask.manager.guided.asked import Asked, first_of_order
from apwa_dask.manager.guided.sketch import Sketch, quoted_name

__all__ = ["SEVERAL", "extracted"]

SEVERAL = "several"
"""Answer to whether a text has one such value or more."""
_TYPES = {"text": "string", "number": "number", "date": "date"}
_PARTS = {
    "year": "year({0})",
    "month": "strftime({0}, '%Y-%m')",
    "decade": "year({0}) // 10 * 10",
}
_SYMBOLS = {"above": ">", "below": "<", "at least": ">=", "at most": "<="}


def extracted(
    choice: Mapping[str, Any], sketch: Sketch, question: str, asked: Sequence[Asked], column: str
) -> Sketch:
    """Read the values, keep the rows that are asked for, and count or reckon.

    Parameters
    ----------
    choice : mapping
        What each value means, by its name; under ``many`` whether a text has several of the first one.
    column : str
        The text.
    """
    names = [one.name for one in asked]
    output = {
        one.name: {"type": _TYPES[one.kind], "description": str(choice[one.name]).strip(), "nullable": True}
        for one in asked
    }
    instruction = f"Find the {' and the '.join(name.replace('_', ' ') for name in names)} in the input."
    contract: dict[str, Any] = {"instruction": instruction, "inputs": [column], "output": output}
    if choice.get("many") == SEVERAL and len(asked) == 1:
        contract["instruction"] = f"Find every {names[0].replace('_', ' ')} in the input, each once."
        sketch = sketch.with_step("flat_map", contract=contract)
    else:
        sketch = sketch.with_step("map", contract=contract)
    kept = [condition for one in asked if (condition := _condition(one, question))]
    if kept:
        sketch = sketch.with_step("where", condition=" AND ".join(kept))
    return _counted(sketch, question, asked)


def _condition(one: Asked, question: str) -> str:
    name = quoted_name(one.name)
    if one.use == "equal":
        wanted = re.sub(r"[\W_]+", "", one.said.lower())
        return f"contains({_plain(name)}, '{wanted}')"
    if one.use != "bound":
        return ""
    allowed = [
        (value, how[0]) for value, how in said.bounds(question) if len(how) == 1 and how[0] in _SYMBOLS
    ]
    return f"{name} {_SYMBOLS[allowed[0][1]]} {allowed[0][0]}" if allowed else ""


def _plain(name: str) -> str:
    """Letters and digits in lower case: texts that are read are spelled in many ways."""
    return rf"regexp_replace(lower({name}), '[^\pL\pN]', '', 'g')"


def _counted(sketch: Sketch, question: str, asked: Sequence[Asked]) -> Sketch:
    groups = [one for one in asked if one.use == "group"]
    numbers = [one for one in asked if one.use == "number"]
    for one in asked:
        if one.use == "distinct":
            return _distinct(sketch, question, one)
    if numbers:
        fn = "mean" if re.search(r"\b(?:average|mean)\b", question, re.IGNORECASE) else "sum"
        rule = {f"{fn}_{numbers[0].name}": {"fn": fn, "column": numbers[0].name}}
        return sketch.with_step("aggregate", by=[one.name for one in groups], aggregates=rule)
    if groups:
        return _grouped(sketch, question, groups[0])
    if re.match(r"\s*(?:how many|count)\b", question, re.IGNORECASE):
        return sketch.with_step("aggregate", by=[], aggregates={"count": {"fn": "count"}})
    return sketch


def _grouped(sketch: Sketch, question: str, one: Asked) -> Sketch:
    name = quoted_name(one.name)
    if one.part:
        key = sketch.new_name(one.part)
        sketch = sketch.with_step("assign", columns={key: _PARTS[one.part].format(name)})
        sketch = sketch.with_step("where", condition=f"{quoted_name(key)} IS NOT NULL")
        sketch = sketch.with_step("aggregate", by=[key], aggregates={"count": {"fn": "count"}})
        shown = [key, "count"]
    else:
        key = sketch.new_name(f"{one.name}_key")
        sketch = sketch.with_step("assign", columns={key: _plain(name)})
        sketch = sketch.with_step("where", condition=f"{quoted_name(key)} <> ''")
        rules = {"count": {"fn": "count"}, one.name: {"fn": "min", "column": one.name}}
        sketch = sketch.with_step("aggregate", by=[key], aggregates=rules)
        shown = [one.name, "count"]
    order = first_of_order(question)
    if order is not None:
        sketch = sketch.with_step("sort", by=[{"column": "count", "descending": order[0]}])
        sketch = sketch.with_step("limit", n=order[1])
    return sketch.with_step("select", columns=shown)


def _distinct(sketch: Sketch, question: str, one: Asked) -> Sketch:
    """How many different ones, in all or for each value of a column that the question names after "each"."""
    named = re.search(r"\b(?:each|per|by) (?:the )?([a-z][\w-]*)", question, re.IGNORECASE)
    each = [name for name in sketch.keys if named and name.lower() == named.group(1).lower()]
    key = sketch.new_name(f"{one.name}_key")
    sketch = sketch.with_step("assign", columns={key: _plain(quoted_name(one.name))})
    return sketch.with_step(
        "aggregate", by=each, aggregates={f"{one.name}_count": {"fn": "count_distinct", "column": key}}
    )
