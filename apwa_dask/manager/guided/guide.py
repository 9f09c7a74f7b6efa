"""The conversation that leads a small model to a plan: one choice a call, until it is done."""

from __future__ import annotations

import json
from typing import Any

from apwa_dask.errors import PlanError
from apwa_dask.manager.briefing import Tables
from apwa_dask.manager.guided.apply import applied
from apwa_dask.manager.guided.choices import DONE, choices, needs_schema, one_of, table_schema
from apwa_dask.manager.guided.examples import constant_messages
from apwa_dask.manager.guided.sketch import Sketch
from apwa_dask.manager.guided.words import table_words
from apwa_dask.manager.refusals import refused
from apwa_dask.manager.session import Session
from apwa_dask.models.types import Message
from apwa_dask.plans.plan import Plan

__all__ = ["draft_guided"]

_OUTPUT_TOKENS = 512


async def draft_guided(question: str, tables: Tables, session: Session) -> Plan:
    """A plan over one table.

    Raises
    ------
    RefusalError
        Nothing in the table can answer.
    PlanError
        No usable answer.
    """
    constant = constant_messages()
    table = next(iter(tables))
    if len(tables) > 1:
        names = ", ".join(tables)
        shown = "\n".join(table_words(alias, *known) for alias, known in tables.items())
        tail = [Message("user", f"{shown}\nQuestion: {question}\nWhich table, one of {names}?")]
        table = str(
            (await session.ask(constant, tail, table_schema(list(tables)), output_tokens=64))["table"]
        )
    schema, profile = tables[table]
    sketch = Sketch.of(table, schema, profile)
    tail = [Message("user", f"{table_words(table, schema, profile)}\nQuestion: {question}")]
    answer = await session.ask(constant, tail, needs_schema(sketch), output_tokens=32)
    needs = answer.get("needs")
    if needs == "missing":
        raise refused("no column holds what the question asks for", tables)
    tail.append(Message("assistant", _line(answer)))
    while True:
        found = choices(sketch, reading=needs == "reading")
        if len(found) == 1:
            break
        tail.append(Message("user", _next(sketch)))
        choice = await session.ask(constant, tail, one_of(found), output_tokens=_OUTPUT_TOKENS)
        tail.append(Message("assistant", _line(choice)))
        if choice.get("do") == DONE:
            break
        sketch = _grown(choice, sketch, question, session)
    return Plan(query=question, sources=(table,), steps=sketch.steps)


def _next(sketch: Sketch) -> str:
    if not sketch.verbs:
        return "First step?"
    return f"Columns now: {', '.join(sketch.schema.names[:30])}. Next step?"


def _grown(choice: dict[str, Any], sketch: Sketch, question: str, session: Session) -> Sketch:
    try:
        return applied(choice, sketch, question)
    except PlanError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        why = f"its choice has another shape than it was asked for ({type(error).__name__})"
    raise session.unfit(why)


def _line(answer: dict[str, Any]) -> str:
    return json.dumps(answer, ensure_ascii=False)
