"""A table that is a list of labels for the rows of another one: "one of the labels in labels.json"."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from apwa_dask.manager.briefing import Tables
from apwa_dask.manager.guided.sketch import Sketch
from apwa_dask.plans.infer import is_text, output_schema, visible
from apwa_dask.plans.loading import OPERATIONS

__all__ = ["label_table", "labelled_from"]

_LABELS = re.compile(r"\b(?:one of|labels?|categor(?:y|ies)|class(?:es)?|topics?|tags?)\b", re.IGNORECASE)
_MOST_LABELS = 500
_LABEL_TOKENS = 30
_REASON = "the labels are the rows of another table, and each row has to see them"


def label_table(tables: Tables, question: str) -> str:
    """The one of two tables that lists labels, where the question names it as such; else nothing."""
    if len(tables) != 2 or not _LABELS.search(question):
        return ""
    found = [table for table in tables if _is_list(table, tables) and _names(table, question)]
    return found[0] if len(found) == 1 else ""


def labelled_from(labels: str, sketch: Sketch, column: str, name: str, tables: Tables) -> Sketch:
    """Every row with one of the labels, and no other new column.

    The labels become one text, which is put beside each row: so the plan holds whatever the table lists when it runs.
    """
    own = sketch.schema.names
    (listed,) = _columns(labels, tables)
    every, one = sketch.new_name("label_list"), sketch.new_name("all_rows")
    contract = {
        "instruction": f'List all values of "{listed}", separated by commas, each exactly as it is written.',
        "inputs": [listed],
        "output": {every: {"type": "string", "description": "all of them, separated by commas"}},
    }
    reduce = _step("reduce", "reduce_1", labels, tables, contract=contract)
    key = _step("assign", "assign_1", reduce.id, tables, columns={one: "1"})
    rows = _step("assign", "assign_2", sketch.table, tables, columns={one: "1"})
    merge = _step("merge", "merge_1", rows.id, tables, right=key.id, left_on=[one], right_on=[one])
    reduced = output_schema(reduce, [visible(tables[labels][0])])
    sides = [output_schema(rows, [sketch.schema]), output_schema(key, [reduced])]
    sketch = replace(sketch, schema=output_schema(merge, sides), steps=(reduce, key, rows, merge))
    told = f"Choose the one value of {every} that fits {column} best. Answer with it exactly as it is written there."
    answer = {name: {"type": "string", "description": f"one of {every}"}}
    sketch = sketch.with_step(
        "map", contract={"instruction": told, "inputs": [column, every], "output": answer}
    )
    return sketch.with_step("select", columns=[*own, name])


def _step(op: str, wanted: str, reads: str, tables: Tables, **fields: Any) -> Any:
    name = wanted if wanted not in tables else f"{wanted}_of_tables"
    return OPERATIONS[op].model_validate({"id": name, "input": reads, "reason": _REASON, **fields})


def _is_list(table: str, tables: Tables) -> bool:
    columns = _columns(table, tables)
    profile = tables[table][1]
    if len(columns) != 1 or profile.rows is None or not 1 < profile.rows <= _MOST_LABELS:
        return False
    known = next((column for column in profile.columns if column.name == columns[0]), None)
    if known is None or known.tokens is None or known.distinct is None:
        return False
    return known.tokens.longest <= _LABEL_TOKENS and known.distinct >= profile.rows


def _columns(table: str, tables: Tables) -> list[str]:
    fields = [field for field in visible(tables[table][0]) if field.name != "path"]
    return [field.name for field in fields] if all(is_text(field.type) for field in fields) else []


def _names(table: str, question: str) -> bool:
    name = re.escape(table.replace("_", " "))
    return re.search(rf"\b{name}\b", question.replace("_", " "), re.IGNORECASE) is not None
