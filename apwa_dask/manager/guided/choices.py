"""Which choices make sense at a point of a plan, each as a small JSON schema.

Typed enumerations (operations on text only over text columns, comparisons only over numbers) and leaving out
what cannot follow took a 1.5B model from 9 to 14 right plans of 15 (measured, with four more examples).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from apwa_dask.manager.guided.sketch import Sketch

__all__ = ["ALL_ROWS", "DONE", "choices", "needs_schema", "one_of", "table_schema"]

Json = dict[str, Any]

DONE = "done"
ALL_ROWS = "all rows"
NEEDS = ("columns", "reading", "missing")

_MOST_STEPS = 7
_NAME: Json = {"type": "string", "pattern": "^[a-z][a-z0-9_]{0,30}$"}
_SHORT_TEXT: Json = {"type": "string", "minLength": 3, "maxLength": 160}
_TASK: Json = {"type": "string", "minLength": 8, "maxLength": 300}
_COMPARE = ["equal to", "not equal to", "above", "below", "at least", "at most"]
_KINDS = ["text", "number", "date", "yes or no"]


def table_schema(tables: Sequence[str]) -> Json:
    """Which table."""
    return _object(table=_enum(tables))


def needs_schema(sketch: Sketch) -> Json:
    """Whether columns can decide, texts have to be read, or nothing here can answer."""
    return _object(needs=_enum([need for need in NEEDS if need != "reading" or sketch.readable]))


def choices(sketch: Sketch, *, reading: bool) -> list[Json]:
    """The steps that can come next; `DONE` alone when nothing more can."""
    if sketch.did("overview") or _is_one_number(sketch) or len(sketch.verbs) >= _MOST_STEPS:
        return [_do(DONE)]
    counted = sketch.did("count", "number")
    found = list(_keeps(sketch)) if sketch.verbs.count("keep") < 3 and not sketch.did("first") else []
    if reading and not counted and not sketch.did("sort", "first"):
        found += _readings(sketch)
    if not counted:
        found += _aggregates(sketch)
    if (sketch.numbers or sketch.times) and not sketch.did("sort"):
        found.append(
            _do("sort", column=_enum([*sketch.numbers, *sketch.times]), order=_enum(["largest", "smallest"]))
        )
    if not sketch.did("first"):
        found.append(_do("first", n={"type": "integer", "minimum": 1, "maximum": 1000}))
    if sketch.verbs:
        found.append(_do(DONE))
    return found


def one_of(found: Sequence[Json]) -> Json:
    """The schema of one choice."""
    return found[0] if len(found) == 1 else {"anyOf": list(found)}


def _is_one_number(sketch: Sketch) -> bool:
    return bool(sketch.steps) and sketch.steps[-1].op == "aggregate" and not sketch.steps[-1].by


def _keeps(sketch: Sketch) -> Iterator[Json]:
    complete = sketch.complete_values
    for name, values in complete.items():
        yield _do("keep", column=_enum([name]), **{"is": _enum(_COMPARE[:2])}, value=_enum(values))
    free = [name for name in sketch.texts if name not in complete]
    if free:
        how = ["equal to", "not equal to", "containing", "starting with"]
        value: Json = {"type": "string", "minLength": 1, "maxLength": 80}
        yield _do("keep", column=_enum(free), **{"is": _enum(how)}, value=value)
    if sketch.numbers:
        yield _do("keep", column=_enum(sketch.numbers), **{"is": _enum(_COMPARE)}, value={"type": "number"})
    if sketch.times:
        how = ["on", "before", "after"]
        yield _do(
            "keep",
            column=_enum(sketch.times),
            **{"is": _enum(how)},
            value={"type": "string", "format": "date"},
        )
    if sketch.truths:
        yield _do(
            "keep", column=_enum(sketch.truths), **{"is": _enum(["equal to"])}, value={"type": "boolean"}
        )


def _readings(sketch: Sketch) -> Iterator[Json]:
    column = _enum(sketch.readable)
    made = sketch.did("label", "extract", "rewrite")
    if not made and not sketch.did("judge"):
        yield _do("judge", column=column, condition=_SHORT_TEXT)
    if not made:
        label = _object(label={"type": "string", "minLength": 1, "maxLength": 40}, meaning=_SHORT_TEXT)
        answer = _object(name=_NAME, asks=_SHORT_TEXT, labels=_list(label, 2, 24))
        yield _do("label", column=column, answers=_list(answer, 1, 4))
        field = _object(name=_NAME, kind=_enum(_KINDS), meaning=_SHORT_TEXT)
        yield _do("extract", column=column, fields=_list(field, 1, 12))
        yield _do("rewrite", column=column, name=_NAME, task=_TASK)
    keys = [name for name in sketch.keys if name not in sketch.readable] or []
    yield _do("overview", column=column, each=_enum([ALL_ROWS, *keys]), name=_NAME, task=_TASK)


def _aggregates(sketch: Sketch) -> Iterator[Json]:
    each = _enum([ALL_ROWS, *sketch.keys])
    yield _do("count", each=each)
    if sketch.numbers:
        fn = _enum(["average", "total", "smallest", "largest"])
        yield _do("number", fn=fn, column=_enum(sketch.numbers), each=each)


def _do(verb: str, **properties: Json) -> Json:
    return _object(do=_enum([verb]), **properties)


def _object(**properties: Json) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _enum(values: Sequence[str]) -> Json:
    return {"type": "string", "enum": list(values)}


def _list(items: Json, at_least: int, at_most: int) -> Json:
    return {"type": "array", "items": items, "minItems": at_least, "maxItems": at_most}
