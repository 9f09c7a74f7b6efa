"""What a plan will cost, before anything is paid: calls, tokens and money, low, expected and high."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Any

import orjson
import pyarrow as pa

from apwa_dask.agents.conversation import Terms
from apwa_dask.agents.limits import room_of
from apwa_dask.agents.packs import PackTerms
from apwa_dask.agents.prompts import answer_reader, answer_schema, build_template
from apwa_dask.agents.reduce import NOTES, reduce_template
from apwa_dask.agents.tokens import estimate_tokens
from apwa_dask.agents.toolbox import Toolbox
from apwa_dask.models.model import Model
from apwa_dask.models.prices import price_of
from apwa_dask.models.types import Template
from apwa_dask.models.vectors import MOST_TEXTS
from apwa_dask.optimize.flow import Flow, after, of_source, pairs_of, pairs_within
from apwa_dask.optimize.lengths import (
    TOKENS_ERROR,
    answer_tokens,
    row_overhead,
    summary_tokens,
    tool_turn_tokens,
)
from apwa_dask.optimize.lessons import Lesson, root_of
from apwa_dask.optimize.ranges import times, within
from apwa_dask.plans.contract import Contract
from apwa_dask.plans.explain import Range, StepEstimate
from apwa_dask.plans.infer import Catalog, infer
from apwa_dask.plans.lowering import calls_at_most, lowered
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.steps import Join, LLMStep, Rank, Reduce, Resolve
from apwa_dask.tables.profile import Profile

__all__ = ["estimate"]

DEFAULT_ALIAS = ""
_NONE = Range.exactly(0)
_ASKED_AGAIN = 1.2
"""High figure of calls: one answer in five is truncated or not valid, and asked for once more."""

_TURNS = Range(1, 2, 4)
"""Calls of a unit with tools."""
_MESSAGE_TOKENS = 4
_VOCABULARY = Range(*TOKENS_ERROR)


def estimate(
    plan: Plan,
    catalog: Catalog,
    profiles: Mapping[str, Profile],
    models: Mapping[str, Model],
    lessons: Mapping[str, Lesson] | None = None,
) -> dict[str, StepEstimate]:
    """Expected work of each step of a valid plan. Makes no call and reads no data.

    Prompts are sized with the templates that the agents send and the token lengths of the profiles; what a
    filter keeps is unknown, and gives a range from nothing to all. Rows with equal inputs are called once, so
    the low figure counts distinct inputs. Nothing is taken off for prompt caching.

    Parameters
    ----------
    plan : Plan
    catalog : mapping of str to pyarrow.Schema
    profiles : mapping of str to Profile
        By alias; rows of a table without one are unknown.
    models : mapping of str to Model
        By alias; the run's default under ``""``.
    lessons : mapping of str to Lesson, optional
        By step id: what a preview or an earlier run has shown, in place of what is usual.

    Returns
    -------
    dict of str to StepEstimate
        By step id. What is not known is None: rows of an unknown table, cost of a model without a price.

    Raises
    ------
    PlanError
        The plan is not valid for the catalog.
    """
    schemas = infer(plan, catalog)
    flows = {alias: of_source(schemas[alias], profiles.get(alias)) for alias in plan.sources}
    found: dict[str, StepEstimate] = {}
    for step in plan.steps:
        inputs = [flows[name] for name in step.inputs_from]
        if not isinstance(step, LLMStep):
            flows[step.id] = after(step, inputs)
            found[step.id] = StepEstimate(flows[step.id].rows, _NONE, _NONE, _NONE, _NONE)
            continue
        model = models.get(step.contract.model or DEFAULT_ALIAS, models.get(DEFAULT_ALIAS))
        lesson = (lessons or {}).get(step.id)
        root = root_of(plan, step.id)
        rows = flows[root].rows if root is not None else None
        known = lesson.rows(rows) if lesson is not None and rows is not None else None
        if isinstance(step, (Join, Resolve)):
            prior = _judged(step, inputs, [schemas[name] for name in step.inputs_from], model, known)
        else:
            inputs[0] = inputs[0] if known is None else replace(inputs[0], rows=known)
            prior = _model_step(step, inputs[0], schemas[step.input], model)
        flows[step.id] = after(step, inputs)
        learned = prior if lesson is None else lesson.applied(prior)
        found[step.id] = learned if learned is prior else _with_cost(learned, model)
        if isinstance(step, (Join, Resolve)) and step.embed is not None:
            found[step.id] = _with_vectors(step, found[step.id], inputs, models.get(step.embed))
    return found


def _model_step(step: LLMStep, flow: Flow, schema: pa.Schema, model: Model | None) -> StepEstimate:
    """Of a model step, the rows that go in: that is what is paid."""
    if flow.rows is None or model is None:
        return StepEstimate(rows=flow.rows)
    if isinstance(step, Rank):
        return _priced(flow.rows, *_games(step, flow, schema, model), model)
    if isinstance(step, Reduce):
        return _priced(flow.rows, *_tree(step, flow, schema, model), model)
    if step.contract.unit != "row":
        return _priced(flow.rows, *_packs(step, flow, schema, model), model)
    return _priced(flow.rows, *_rows(step, flow, schema, model), model)


def _judged(
    step: Join | Resolve,
    inputs: Sequence[Flow],
    schemas: Sequence[pa.Schema],
    model: Model | None,
    known: Range | None,
) -> StepEstimate:
    """Of a join or a resolve, the candidate pairs: each is a row that a model reads."""
    tables = dict(zip(step.inputs_from, schemas, strict=True))
    alone = Plan(sources=tuple(tables), steps=(step,))
    pairs: Any
    # free of vectors, which are no part of what the model reads
    alone = alone.model_copy(update={"steps": (step.model_copy(update={"embed": None}),)})
    pairs, judge = lowered(alone, tables).steps[:2]
    assert isinstance(judge, LLMStep)
    asked = pairs_of(step, inputs) if isinstance(step, Join) else pairs_within(step, inputs[0])
    asked = asked if known is None else replace(asked, rows=known)
    schemas = [schemas[0], schemas[-1]]
    return _model_step(judge, asked, pairs.columns_after(schemas), model)


def _with_vectors(
    step: Join | Resolve, judged: StepEstimate, inputs: Sequence[Flow], model: Model | None
) -> StepEstimate:
    """The step with what the vectors of its texts take: up to `MOST_TEXTS` distinct texts a request, no output."""
    sides = [step.similar_left, step.similar_right] if isinstance(step, Join) else [step.similar]
    parts = [judged.calls, judged.input_tokens, judged.cost_usd]
    for flow, names in zip(inputs, sides, strict=True):
        if flow.rows is None or model is None:
            return replace(judged, calls=None, input_tokens=None, cost_usd=None)
        distinct = flow.distinct(names)
        low, expected = (
            at if distinct is None else min(at, distinct) for at in (flow.rows.low, flow.rows.expected)
        )
        rows = Range(low, expected, flow.rows.high)
        calls = Range(ceil(rows.low / MOST_TEXTS), ceil(rows.expected / MOST_TEXTS), rows.high)
        given = times(rows, flow.tokens(names), _VOCABULARY)
        price = price_of(model)
        cost = None if price is None else times(given, Range.exactly(price.input_usd / 1e6))
        added = [calls, given, cost]
        parts = [
            None if of is None or more is None else of + more for of, more in zip(parts, added, strict=True)
        ]
    calls_, given_, cost_ = parts
    return replace(judged, calls=calls_, input_tokens=given_, cost_usd=cost_)


Work = tuple[Range, Range, Range]
"""Calls, input tokens and output tokens of a whole step."""


def _games(step: Rank, flow: Flow, schema: pa.Schema, model: Model) -> Work:
    """A tournament has as many questions as its tree says; each holds up to `width` rows."""
    assert flow.rows is not None
    pool: Any
    pool, games = lowered(
        Plan(sources=("t",), steps=(step.model_copy(update={"input": "t"}),)), {"t": schema}
    ).steps[:2]
    assert isinstance(games, LLMStep)
    template = reduce_template(games, model, pool.columns_after([schema]), "answer")
    low, expected, high = (
        float(calls_at_most(rows, step.k, step.width))
        for rows in (flow.rows.low, flow.rows.expected, flow.rows.high)
    )
    calls = Range(low, expected, high * _ASKED_AGAIN)
    row = _row(step.contract, flow)
    shown = Range(2 * row.low, step.width * row.expected, step.width * row.high)
    answer = _bounded(answer_tokens(games.contract.output), template)
    return calls, times(calls, _constant(template) + shown), times(calls, answer)


def _rows(step: LLMStep, flow: Flow, schema: pa.Schema, model: Model) -> Work:
    assert flow.rows is not None
    contract = step.contract
    wire = Toolbox.of(
        contract.tools, frozenset(contract.tools), dict.fromkeys(contract.tables, pa.schema([]))
    ).wire
    template = build_template(step, model, schema, wire)
    calls = _calls_of_rows(step, flow, flow.rows)
    answer = _bounded(answer_tokens(answer_schema(step, model)), template)
    prompt = _constant(template) + _row(contract, flow)
    if contract.tools:  # each use of a tool is one more call of the same prompt, grown
        turns = within(_TURNS, 1, contract.limits.steps)
        calls = times(calls, turns)
        call, growth = tool_turn_tokens()
        share = (turns.expected - 1) / turns.expected
        prompt += Range(0, growth.expected * share, growth.high * share)
        usual = call.expected * share + answer.expected * (1 - share)
        answer = Range(min(call.low, answer.low), usual, max(call.high, answer.high))
    return calls, times(calls, prompt), times(calls, answer)


def _calls_of_rows(step: LLMStep, flow: Flow, rows: Range) -> Range:
    distinct = flow.distinct(step.contract.inputs)
    fewest = rows.low if distinct is None else min(rows.low, distinct)
    usual = rows.expected if distinct is None else min(rows.expected, distinct)
    return Range(fewest, usual, rows.high * _ASKED_AGAIN)


def _packs(step: LLMStep, flow: Flow, schema: pa.Schema, model: Model) -> Work:
    """Rows that share prompts: as many as the unit says and as fit."""
    assert flow.rows is not None
    contract = step.contract
    alone = build_template(step, model, schema)
    row_terms = Terms(alone, answer_reader(step, model), room_of(alone, contract), contract.limits)
    terms = PackTerms.of(step, model, row_terms)
    row = _row(contract, flow)
    most = min(contract.pack_rows or terms.most_rows(), terms.most_rows())
    room = terms.for_rows(most).room.packing_tokens
    fitting = max(1, min(most, int(room // max(row.expected, 1))))
    at_least = flow.partitions or 1 if contract.unit == "partition" else 1
    low, expected, high = (
        _pack_calls(rows, fitting, at_least) for rows in (flow.rows.low, flow.rows.expected, flow.rows.high)
    )
    calls = Range(low, expected, high * _ASKED_AGAIN)
    rows = Range(flow.rows.low, flow.rows.expected, flow.rows.high * _ASKED_AGAIN)
    given = times(calls, _constant(terms.template)) + times(rows, row)
    return calls, given, times(rows, _bounded(answer_tokens(answer_schema(step, model)), alone))


def _pack_calls(rows: float, fitting: int, at_least: int) -> float:
    return 0.0 if rows <= 0 else float(max(ceil(rows / fitting), min(at_least, ceil(rows))))


def _tree(step: Reduce, flow: Flow, schema: pa.Schema, model: Model) -> Work:
    """A group that fits one prompt is one call; else leaves write notes, then notes of notes."""
    assert flow.rows is not None
    contract = step.contract
    answer, notes = (reduce_template(step, model, schema, node) for node in ("answer", "notes"))
    groups = after(step, [flow]).rows or Range.exactly(1)
    row = _row(contract, flow)
    one = [
        _tree_of(rows, tokens, groups_of, answer, notes, step)
        for rows, tokens, groups_of in (
            (flow.rows.low, row.low, groups.low),
            (flow.rows.expected, row.expected, groups.expected),
            (flow.rows.high, row.high, groups.high),
        )
    ]
    calls, given, written = (Range(*(part[i] for part in one)) for i in range(3))
    again, said = Range(1, 1, _ASKED_AGAIN), _bounded(summary_tokens(contract.output), answer)
    vocabulary, length = _VOCABULARY, Range(said.low / said.expected, 1, said.high / said.expected)
    return times(calls, again), times(given, again, vocabulary), times(written, again, length)


def _tree_of(
    rows: float, row_tokens: float, groups: float, answer: Template, notes: Template, step: Reduce
) -> tuple[float, float, float]:
    """Calls, tokens in and tokens out of all groups, each taken for one of mean size."""
    if rows <= 0 or groups <= 0:
        return 0.0, 0.0, 0.0
    contract = step.contract
    last, room = room_of(answer, contract), room_of(notes, contract)
    note_tokens = summary_tokens(NOTES).expected
    items = rows / groups * row_tokens
    calls = given = written = 0.0
    while items > last.packing_tokens and calls < 1e9:
        nodes = ceil(items / max(room.packing_tokens, 1))
        calls, given = calls + nodes, given + items + nodes * room.constant_tokens
        written += nodes * note_tokens
        shrunk = nodes * note_tokens
        if shrunk >= items:  # prompts too small for a tree that shrinks: the engine says so when it runs
            break
        items = shrunk
    calls, given = calls + 1, given + items + last.constant_tokens
    written += summary_tokens(contract.output).expected
    return calls * groups, given * groups, written * groups


# --- prompts and answers


def _constant(template: Template) -> Range:
    """Tokens of the constant part. Most providers count a schema that they enforce, in a form of their own."""
    messages = float(sum(_message(m.content) for m in template.messages))
    tools = _json_tokens(list(template.tools)) if template.tools else 0
    sent = template.schema if template.model.structured == "json_schema" else None
    schema = _json_tokens(sent) if sent else 0
    said = Range(messages + tools, messages + tools + schema / 2, messages + tools + 1.5 * schema)
    return times(said, _VOCABULARY)


def _json_tokens(document: Any) -> int:
    return estimate_tokens(orjson.dumps(document).decode())


def _message(content: Any) -> int:
    return _MESSAGE_TOKENS + (estimate_tokens(content) if isinstance(content, str) else 0)


def _row(contract: Contract, flow: Flow) -> Range:
    around = row_overhead(contract)
    return times(flow.tokens(contract.inputs) + Range.exactly(around), _VOCABULARY)


def _bounded(answer: Range, template: Template) -> Range:
    """No longer than the ceiling that is sent along."""
    ceiling = template.max_output_tokens
    return answer if ceiling is None else within(answer, 1, ceiling)


def _priced(rows: Range, calls: Range, given: Range, written: Range, model: Model) -> StepEstimate:
    return _with_cost(StepEstimate(rows, calls, given, written), model)


def _with_cost(step: StepEstimate, model: Model | None) -> StepEstimate:
    price = None if model is None else price_of(model)
    given, written = step.input_tokens, step.output_tokens
    if price is None or given is None or written is None:
        return step
    cost = Range(
        price.cost_usd(int(given.low), int(written.low)),
        price.cost_usd(int(given.expected), int(written.expected)),
        price.cost_usd(ceil(given.high), ceil(written.high)),
    )
    return replace(step, cost_usd=cost)
