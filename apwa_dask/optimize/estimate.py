"""What a plan will cost, before anything is paid: calls, tokens and money, low, expected and high."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import orjson
import pyarrow as pa

from apwa_dask.agents.conversation import Terms
from apwa_dask.agents.limits import answer_bound, expected_answer, room_of
from apwa_dask.agents.packs import PackTerms
from apwa_dask.agents.prompts import answer_reader, answer_schema, build_template
from apwa_dask.agents.reduce import NOTES, reduce_template
from apwa_dask.agents.tokens import estimate_tokens
from apwa_dask.agents.toolbox import Toolbox
from apwa_dask.models.model import Model
from apwa_dask.models.prices import price_of
from apwa_dask.models.types import Template
from apwa_dask.optimize.flow import Flow, after, of_source, pairs_of, pairs_within
from apwa_dask.plans.explain import Range, StepEstimate
from apwa_dask.plans.infer import Catalog, infer
from apwa_dask.plans.lowering import calls_at_most, lowered
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.schema import Schema
from apwa_dask.plans.steps import Join, LLMStep, Rank, Reduce, Resolve
from apwa_dask.tables.profile import Profile

__all__ = ["estimate"]

DEFAULT_ALIAS = ""
_NONE = Range.exactly(0)
_ASKED_AGAIN = 1.2
"""High figure of calls: one answer in five is truncated or not valid, and asked for once more."""

_ROW_TOKENS = 4
"""A row's message around its cells."""


def estimate(
    plan: Plan,
    catalog: Catalog,
    profiles: Mapping[str, Profile],
    models: Mapping[str, Model],
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
        flows[step.id] = after(step, inputs)
        if not isinstance(step, LLMStep):
            found[step.id] = StepEstimate(flows[step.id].rows, _NONE, _NONE, _NONE, _NONE)
            continue
        model = models.get(step.contract.model or DEFAULT_ALIAS, models.get(DEFAULT_ALIAS))
        if isinstance(step, (Join, Resolve)):
            found[step.id] = _judged(step, inputs, [schemas[name] for name in step.inputs_from], model)
            continue
        found[step.id] = _model_step(step, inputs[0], schemas[step.input], model)
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
    step: Join | Resolve, inputs: Sequence[Flow], schemas: Sequence[pa.Schema], model: Model | None
) -> StepEstimate:
    """Of a join or a resolve, the candidate pairs: each is a row that a model reads."""
    tables = dict(zip(step.inputs_from, schemas, strict=True))
    alone = Plan(sources=tuple(tables), steps=(step,))
    pairs: Any
    pairs, judge = lowered(alone, tables).steps[:2]
    assert isinstance(judge, LLMStep)
    asked = pairs_of(step, inputs) if isinstance(step, Join) else pairs_within(step, inputs[0])
    schemas = [schemas[0], schemas[-1]]
    return _model_step(judge, asked, pairs.columns_after(schemas), model)


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
    row = flow.tokens(step.contract.inputs) + Range.exactly(_ROW_TOKENS)
    shown = Range(2 * row.low, step.width * row.expected, step.width * row.high)
    return (
        calls,
        _times(calls, _plus(_constant(template), shown)),
        _times(calls, _answer(step.contract.output, template)),
    )


def _rows(step: LLMStep, flow: Flow, schema: pa.Schema, model: Model) -> Work:
    assert flow.rows is not None
    contract = step.contract
    wire = Toolbox.of(
        contract.tools, frozenset(contract.tools), dict.fromkeys(contract.tables, pa.schema([]))
    ).wire
    template = build_template(step, model, schema, wire)
    calls = _calls_of_rows(step, flow, flow.rows)
    if contract.tools:  # each use of a tool is one more call of the same prompt, grown
        calls = Range(calls.low, calls.expected * 2, calls.high * contract.limits.steps)
    prompt = _plus(_constant(template), _plus(flow.tokens(contract.inputs), Range.exactly(_ROW_TOKENS)))
    return calls, _times(calls, prompt), _times(calls, _answer(answer_schema(step, model), template))


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
    row = flow.tokens(contract.inputs) + Range.exactly(_ROW_TOKENS)
    most = min(contract.pack_rows or terms.most_rows(), terms.most_rows())
    room = terms.for_rows(most).room.packing_tokens
    fitting = max(1, min(most, int(room // max(row.expected, 1))))
    at_least = flow.partitions or 1 if contract.unit == "partition" else 1
    low, expected, high = (
        _pack_calls(rows, fitting, at_least) for rows in (flow.rows.low, flow.rows.expected, flow.rows.high)
    )
    calls = Range(low, expected, high * _ASKED_AGAIN)
    rows = Range(flow.rows.low, flow.rows.expected, flow.rows.high * _ASKED_AGAIN)
    given = _plus(_times(calls, _constant(terms.template)), _times(rows, row))
    return calls, given, _times(rows, _answer(answer_schema(step, model), alone))


def _pack_calls(rows: float, fitting: int, at_least: int) -> float:
    return 0.0 if rows <= 0 else float(max(ceil(rows / fitting), min(at_least, ceil(rows))))


def _tree(step: Reduce, flow: Flow, schema: pa.Schema, model: Model) -> Work:
    """A group that fits one prompt is one call; else leaves write notes, then notes of notes."""
    assert flow.rows is not None
    contract = step.contract
    answer, notes = (reduce_template(step, model, schema, node) for node in ("answer", "notes"))
    groups = after(step, [flow]).rows or Range.exactly(1)
    row = flow.tokens(contract.inputs) + Range.exactly(_ROW_TOKENS)
    one = [
        _tree_of(rows, tokens, groups_of, answer, notes, step)
        for rows, tokens, groups_of in (
            (flow.rows.low, row.low, groups.low),
            (flow.rows.expected, row.expected, groups.expected),
            (flow.rows.high, row.high, groups.high),
        )
    ]
    calls, given, written = (Range(*(part[i] for part in one)) for i in range(3))
    most = Range(1, 1, _ASKED_AGAIN)
    return _times(calls, most), _times(given, most), _times(written, most)


def _tree_of(
    rows: float, row_tokens: float, groups: float, answer: Template, notes: Template, step: Reduce
) -> tuple[float, float, float]:
    """Calls, tokens in and tokens out of all groups, each taken for one of mean size."""
    if rows <= 0 or groups <= 0:
        return 0.0, 0.0, 0.0
    contract = step.contract
    last, room = room_of(answer, contract), room_of(notes, contract)
    note_tokens = min(float(notes.max_output_tokens or 500), float(answer_bound(NOTES)))
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
    written += expected_answer(contract.output)
    return calls * groups, given * groups, written * groups


# --- arithmetic of ranges


def _constant(template: Template) -> Range:
    """Tokens of the constant part; most providers count the schema, some do not."""
    messages = sum(_message(m.content) for m in template.messages)
    extra = [part for part in (template.schema, list(template.tools)) if part]
    schema = sum(estimate_tokens(orjson.dumps(part).decode()) for part in extra)
    return Range(messages, messages + schema, messages + schema)


def _message(content: Any) -> int:
    return _ROW_TOKENS + (estimate_tokens(content) if isinstance(content, str) else 0)


def _answer(schema: Schema, template: Template) -> Range:
    usual = expected_answer(schema)
    most = max(min(answer_bound(schema), template.max_output_tokens or answer_bound(schema)), usual)
    return Range(usual / 2, usual, most)


def _plus(a: Range, b: Range) -> Range:
    return a + b


def _times(a: Range, b: Range) -> Range:
    return Range(a.low * b.low, a.expected * b.expected, a.high * b.high)


def _priced(rows: Range, calls: Range, given: Range, written: Range, model: Model) -> StepEstimate:
    price = price_of(model)
    cost = None
    if price is not None:
        cost = Range(
            price.cost_usd(int(given.low), int(written.low)),
            price.cost_usd(int(given.expected), int(written.expected)),
            price.cost_usd(ceil(given.high), ceil(written.high)),
        )
    return StepEstimate(rows=rows, calls=calls, input_tokens=given, output_tokens=written, cost_usd=cost)
