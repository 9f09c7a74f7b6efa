"""The conversation that leads a small model to a plan: a form of what is wanted, then one detail a call."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from apwa_dask.errors import PlanError
from apwa_dask.manager.briefing import Tables
from apwa_dask.manager.guided import cues, forms, said, steps
from apwa_dask.manager.guided.asked import Asked
from apwa_dask.manager.guided.examples import constant_messages
from apwa_dask.manager.guided.extracted import extracted
from apwa_dask.manager.guided.forms import ALL_ROWS, NO_OTHER, NONE, Form
from apwa_dask.manager.guided.joins import Keys, join, key_pairs, partners, ways
from apwa_dask.manager.guided.listed import label_table, labelled_from
from apwa_dask.manager.guided.returned import with_returned
from apwa_dask.manager.guided.sketch import Sketch
from apwa_dask.manager.guided.twins import Twins, join_twins, twins_of
from apwa_dask.manager.guided.words import COLUMNS_SHOWN, table_words
from apwa_dask.manager.refusals import refused
from apwa_dask.manager.session import Session
from apwa_dask.models.types import Message
from apwa_dask.plans.plan import Plan

__all__ = ["draft_guided"]

_OUTPUT_TOKENS = 512

Made = TypeVar("Made")
Grow = Callable[[Mapping[str, Any], Sketch, str], Sketch]


async def draft_guided(question: str, tables: Tables, session: Session) -> Plan:
    """A plan over one table, or two that are joined first: what to keep, what to write, what to count.

    Raises
    ------
    RefusalError
        Nothing in the table can answer.
    PlanError
        No usable answer.
    """
    labels = label_table(tables, question)
    if labels:
        return _planned(await _from_list(labels, question, tables, session), question, tables)
    sketch = await _start(question, tables, session)
    words = table_words(sketch.table, sketch.schema, sketch.profile)
    talk = _Talk(question, session, f"{words}\n\nQuestion: {question}\nform:")
    answer = await talk.ask("", forms.form_schema(sketch, question))
    form = talk.read(lambda: Form(**answer))
    asked, decided = forms.asked_for(sketch, question), forms.certain(sketch, question)
    if form.by_column and decided and (asked or _is_decided(question)):
        sketch = steps.kept(decided, sketch)
    elif form.by_column:
        shape = forms.keep_schema(sketch, question)
        sketch = await talk.grow("keep by column", shape, steps.keep, sketch)
    if form.by_reading:
        sketch = await talk.grow("keep by reading", forms.judge_schema(sketch, question), steps.judge, sketch)
    if form.write == "values" and asked:
        sketch = await _extracted(sketch, asked, talk)
    elif form.write == "labels":
        sketch = await _labelled(sketch, talk)
    elif form.write == "values":
        shape = forms.values_schema(sketch, question, typed=form.result == "number" or form.order == "yes")
        sketch = await talk.grow("write values", shape, steps.values, sketch)
    elif form.write == "text":
        sketch = await talk.grow("write text", forms.text_schema(sketch, question), steps.text, sketch)
    if form.result == "share":
        sketch = await talk.grow("keep by reading", forms.judge_schema(sketch, question), steps.share, sketch)
    elif form.result == "overview":
        sketch, each = steps.with_period(sketch, question)
        sketch = await talk.grow("overview", forms.overview_schema(sketch, each), steps.overview, sketch)
    elif not asked:
        counted = await _counted(form, sketch, talk)
        if counted is None:
            raise refused("no column holds the number that the question asks for", tables)
        sketch = counted
    sketch = with_returned(steps.with_file_name(sketch, question), question)
    if not sketch.steps:
        raise session.unfit("it wants all rows as they are, which is no plan")
    return _planned(sketch, question, tables)


def _planned(sketch: Sketch, question: str, tables: Tables) -> Plan:
    read = {name for step in sketch.steps for name in step.inputs_from}
    return Plan(query=question, sources=tuple(name for name in tables if name in read), steps=sketch.steps)


async def _from_list(labels: str, question: str, tables: Tables, session: Session) -> Sketch:
    """The rows of one table, each with one of the labels that another one lists."""
    (table,) = (alias for alias in tables if alias != labels)
    sketch = Sketch.of(table, *tables[table])
    shape = forms.listed_schema(sketch, question)
    opening = f"{table_words(table, sketch.schema, sketch.profile)}\n\nQuestion: {question}\nwrite labels:"
    talk = _Talk(question, session, opening)
    chosen = await talk.ask("", shape)
    column = str(chosen.get("column", forms.text_columns(sketch, question)[0]))
    made = talk.read(lambda: labelled_from(labels, sketch, column, chosen["name"], tables))
    return with_returned(made, question)


def _is_decided(question: str) -> bool:
    """Whether the question's other numbers are no conditions on columns."""
    return bool(said.occurrences(question) or cues.period_of(question) or said.split_at(question))


async def _extracted(sketch: Sketch, asked: Sequence[Asked], talk: _Talk) -> Sketch:
    choice = await talk.ask("meanings", forms.asked_schema(sketch, asked, talk.question))
    column = str(choice.get("column", forms.text_columns(sketch, talk.question)[0]))
    return talk.read(lambda: extracted(choice, sketch, talk.question, asked, column))


async def _start(question: str, tables: Tables, session: Session) -> Sketch:
    """The table, or the two and the columns on which they are joined: each asked only where there is a choice."""
    if len(tables) == 1:
        (table,) = tables
        return Sketch.of(table, *tables[table])
    twins = twins_of(tables, question)
    if twins is not None:
        return await _twins(twins, question, tables, session)
    most_columns = max(COLUMNS_SHOWN // len(tables), 3)
    shown = "\n".join(table_words(alias, *known, most_columns) for alias, known in tables.items())
    opening = f"{shown}\nQuestion: {question}\nWhich table? Joined with which other one, if both are needed?"
    talk = _Talk(question, session, opening)
    possible = partners(tables)
    answer = await talk.ask("", forms.table_schema(list(tables), possible))
    table, other = str(answer.get("table")), answer.get("joined", NO_OTHER)
    if table not in tables or (other != NO_OTHER and other not in possible[table]):
        raise session.unfit("it names no table, or one that cannot be joined")
    sketch = Sketch.of(table, *tables[table])
    if other == NO_OTHER:
        return sketch
    keys = await _keys(table, other, tables, talk)
    possible_ways = ways(table, other, question)
    if len(possible_ways) == 1:
        return join(sketch, other, keys, tables)
    said_rows = await talk.ask("rows", forms.choice_schema("rows", list(possible_ways)))
    return join(sketch, other, keys, tables, talk.read(lambda: possible_ways[said_rows["rows"]]))


async def _twins(twins: Twins, question: str, tables: Tables, session: Session) -> Sketch:
    """Records of both tables that are the same: which are wanted is asked where the question's words leave it open."""
    choices = twins.choices(question)
    if len(choices) == 1:
        return join_twins(twins, next(iter(choices.values())), tables)
    shown = "\n".join(table_words(alias, *known, 6) for alias, known in tables.items())
    talk = _Talk(question, session, f"{shown}\nQuestion: {question}\nWhat is the result?")
    answer = await talk.ask("", forms.choice_schema("result", list(choices)))
    return join_twins(twins, talk.read(lambda: choices[answer["result"]]), tables)


async def _keys(left: str, right: str, tables: Tables, talk: _Talk) -> Keys:
    pairs = {keys.words(left, right): keys for keys in key_pairs(left, right, tables)}
    if len(pairs) == 1:
        return next(iter(pairs.values()))
    answer = await talk.ask("equal columns", forms.choice_schema("equal", list(pairs)))
    return talk.read(lambda: pairs[answer["equal"]])


async def _labelled(sketch: Sketch, talk: _Talk) -> Sketch:
    """Labels; their meanings are asked for where the question says none: small models need them."""
    chosen = await talk.ask("write labels", forms.labels_schema(sketch, talk.question))
    if not talk.read(lambda: steps.said_meanings(chosen, talk.question)):
        meanings = await talk.ask(
            "meanings", forms.meanings_schema(talk.read(lambda: steps.all_labels(chosen)))
        )
        chosen = {**chosen, "meanings": {label: str(meaning) for label, meaning in meanings.items()}}
    return talk.read(lambda: steps.labels(chosen, sketch, talk.question))


async def _counted(form: Form, sketch: Sketch, talk: _Talk) -> Sketch | None:
    """Aggregate and order: "the average of the ten longest" orders first, "the city with the most" last.

    None: the number that is asked for is in no column.
    """
    aggregate: tuple[Mapping[str, Any], Grow] | None = None
    if form.result == "count":
        aggregate = await talk.ask("count", forms.count_schema(sketch, talk.question)), steps.count
    elif form.result == "number" and sketch.numbers:
        sketch, each = steps.with_split(sketch, talk.question)
        aggregate = await talk.ask("number", forms.number_schema(sketch, each)), steps.number
    if aggregate is None:
        return await _ordered(form, sketch, talk)
    answer, grow = aggregate
    if answer.get("column") == NONE:
        return None
    if answer.get("each") == ALL_ROWS and form.result == "number":
        sketch = await _ordered(form, sketch, talk)
        return talk.read(lambda: grow(answer, sketch, talk.question))
    grouped = talk.read(lambda: grow(answer, sketch, talk.question))
    return grouped if answer.get("each") == ALL_ROWS else await _ordered(form, grouped, talk)


async def _ordered(form: Form, sketch: Sketch, talk: _Talk) -> Sketch:
    if form.order != "yes":
        return sketch
    return await talk.grow("order", forms.order_schema(sketch, talk.question), steps.order, sketch)


class _Talk:
    """One conversation; each call continues it, so that an endpoint has all but the last turn cached."""

    def __init__(self, question: str, session: Session, opening: str) -> None:
        self.question = question
        self._session, self._tail = session, [Message("user", opening)]

    async def ask(self, detail: str, schema: dict[str, Any]) -> dict[str, Any]:
        """The model's choice; `detail` says of what (empty for the first)."""
        if detail:
            self._tail.append(Message("user", f"{detail}:"))
        answer = await self._session.ask(
            constant_messages(), self._tail, schema, output_tokens=_OUTPUT_TOKENS, name="choice"
        )
        self._tail.append(Message("assistant", json.dumps(answer, ensure_ascii=False)))
        return answer

    async def grow(self, detail: str, shape: dict[str, Any], grow: Grow, sketch: Sketch) -> Sketch:
        """The plan with what the model chose for one detail."""
        answer = await self.ask(detail, shape)
        return self.read(lambda: grow(answer, sketch, self.question))

    def read(self, make: Callable[[], Made]) -> Made:
        """What is made of an answer; one of another shape than asked for (by an endpoint without strict
        decoding) ends the draft.
        """
        try:
            return make()
        except PlanError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            kind = type(error).__name__
        raise self._session.unfit(f"its choice has another shape than it was asked for ({kind})")
