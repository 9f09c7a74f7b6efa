"""Steps that are made of others: what a `join` comes to, as a free step, a judged one and another free step.

A join becomes ``pairs`` (candidate pairs, found by the block), a `Map` that judges one pair a row, and
``rows`` (the rows of both tables, put together by verdict). So a pair is a row like any other: journaled, packed,
tried again, counted and priced. These inner steps (`apwa_dask.plans.inner_steps`) are in no plan language: only
`lowered` makes them, their ids hold a point, and what a user reads, keeps and edits is the plan as it was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

import pyarrow as pa

from apwa_dask.plans.contract import Contract
from apwa_dask.plans.infer import Catalog, infer
from apwa_dask.plans.inner_steps import (
    Clustered,
    Embed,
    Joined,
    Pairs,
    Pool,
    Ranked,
    Tournament,
    left_place,
    place_of,
    right_place,
    vector_of,
    without_vector,
)
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.schema import Field, Schema
from apwa_dask.plans.steps import CANDIDATE, CANDIDATES, OTHER, Join, Map, Rank, Resolve

__all__ = [
    "Clustered",
    "Embed",
    "Joined",
    "Pairs",
    "Pool",
    "Ranked",
    "Tournament",
    "calls_at_most",
    "choice",
    "left_place",
    "lowered",
    "place_of",
    "right_place",
    "vector_of",
    "without_vector",
]


def lowered(plan: Plan, catalog: Catalog) -> Plan:
    """The plan as it is run: every step that is made of others is replaced by them.

    Parameters
    ----------
    plan : Plan
        Valid for `catalog`.
    catalog : mapping of str to pyarrow.Schema

    Returns
    -------
    Plan
        The same plan where nothing is to be replaced. A model step keeps its id, so that what is paid is counted
        under the name that the user knows; what reads it reads the step after it.
    """
    if not any(type(step) in _LOWER for step in plan.steps):
        return plan
    schemas = infer(plan, catalog)
    moved: dict[str, str] = {}
    steps: list[Any] = []
    for step in plan.steps:
        inner = _LOWER[type(step)](step, schemas) if type(step) in _LOWER else (step,)
        steps += [each.model_copy(update=_moved(each, moved)) for each in inner]
        if inner[-1].id != step.id:
            moved[step.id] = inner[-1].id
    result = moved.get(plan.result, plan.result)
    return plan.model_copy(update={"steps": tuple(steps), "output": result})


def _moved(step: Any, moved: Mapping[str, str]) -> dict[str, Any]:
    """What the step reads, under the names it has now."""
    update: dict[str, Any] = {}
    for name in ("input", "left", "right"):
        if getattr(step, name, None) in moved:
            update[name] = moved[getattr(step, name)]
    others = getattr(step, "others", ())
    if any(name in moved for name in others):
        update["others"] = tuple(moved.get(name, name) for name in others)
    return update


# --- each kind of step


def _join(step: Join, schemas: Mapping[str, pa.Schema]) -> tuple[Any, ...]:
    is_listed = not step.is_blocked
    left, right, embeds = step.input, step.right, []
    if step.embed is not None:
        embeds = [
            _embed(step.id, "left", step.input, step.embed, step.similar_left),
            _embed(step.id, "right", step.right, step.embed, step.similar_right),
        ]
        left, right = (embed.id for embed in embeds)
    pairs = Pairs(
        id=f"{step.id}.pairs",
        input=left,
        right=right,
        of=step.id,
        left_on=step.left_on,
        right_on=step.right_on,
        condition=step.condition,
        similar_left=step.similar_left,
        similar_right=step.similar_right,
        nearest=step.nearest,
        embeds=step.embed is not None,
        max_pairs_per_row=step.max_pairs_per_row,
        max_pairs=step.max_pairs,
        suffix=step.suffix,
        shown=step.contract.inputs,
        left_names=tuple(schemas[step.input].names),
        is_listed=is_listed,
    )
    contract = step.contract
    if is_listed:
        mine = [name for name in contract.inputs if name in schemas[step.input].names]
        contract = contract.model_copy(update={"inputs": (CANDIDATES, *mine), "output": choice()})
    rows = Joined(
        id=f"{step.id}.rows",
        input=step.id,
        left=left,
        right=right,
        of=step.id,
        how=step.how,
        suffix=step.suffix,
        is_listed=is_listed,
    )
    return *embeds, pairs, _judge(step.id, pairs.id, contract), rows


def _resolve(step: Resolve, schemas: Mapping[str, pa.Schema]) -> tuple[Any, ...]:
    rows, embeds = step.input, []
    if step.embed is not None:
        embeds = [_embed(step.id, "row", step.input, step.embed, step.similar)]
        rows = embeds[0].id
    pairs = Pairs(
        id=f"{step.id}.pairs",
        input=rows,
        right=rows,
        of=step.id,
        left_on=step.on,
        right_on=step.on,
        condition=step.condition,
        similar_left=step.similar,
        similar_right=step.similar,
        nearest=step.nearest,
        embeds=step.embed is not None,
        max_pairs_per_row=step.max_pairs_per_row,
        max_pairs=step.max_pairs,
        suffix=OTHER,
        shown=step.shown,
        left_names=tuple(schemas[step.input].names),
        is_within=True,
    )
    judge = _judge(step.id, pairs.id, step.contract.model_copy(update={"inputs": step.shown}))
    clustered = Clustered(id=f"{step.id}.rows", input=step.id, left=rows, of=step.id)
    return *embeds, pairs, judge, clustered


def _rank(step: Rank, schemas: Mapping[str, pa.Schema]) -> tuple[Any, ...]:
    inputs = step.contract.inputs
    pool = Pool(id=f"{step.id}.pool", input=step.input, of=step.id, shown=inputs)
    task = (
        f"Of the candidates below, choose the one that best meets this:\n{step.contract.instruction}\n"
        f"Answer with its number in the column {CANDIDATE}."
    )
    contract = step.contract.model_copy(update={"instruction": task, "inputs": (CANDIDATE, *inputs)})
    games = Tournament(
        id=step.id,
        input=pool.id,
        contract=contract,
        k=step.k,
        width=step.width,
        seed=step.seed,
        max_calls=step.max_calls,
    )
    return pool, games, Ranked(id=f"{step.id}.rows", input=step.id, left=step.input, of=step.id)


# --- their parts


def _embed(step_id: str, side: str, reads: str, model: str, columns: tuple[str, ...]) -> Embed:
    # not validated: its names hold points, so that no column of a plan has them
    output = Schema.model_construct(fields=(Field.model_construct(name=vector_of(step_id), nullable=True),))
    contract = Contract.model_construct(instruction="", inputs=columns, output=output, model=model)
    return Embed.model_construct(
        id=f"{step_id}.{side}_texts", input=reads, reason="", contract=contract, op="map", of=step_id
    )


def _judge(step_id: str, reads: str, contract: Contract) -> Map:
    # not validated: the id of what it reads holds a point
    return Map.model_construct(id=step_id, input=reads, reason="", contract=contract, op="map")


def choice() -> Schema:
    """The answer of a model that chooses among listed rows."""
    return Schema.of(
        {
            "matches": {
                "type": "list",
                "items": {"type": "integer"},
                "description": f"the numbers of the rows in {CANDIDATES} that meet the task together with this"
                " row; [] if none does",
            }
        }
    )


def calls_at_most(rows: float, k: int, width: int) -> int:
    """Questions of a tournament: the first round, then the champion's path for each further place."""
    calls, height, nodes = 0, 0, max(ceil(rows), 0)
    while nodes > 1:
        nodes = -(-nodes // width)
        calls, height = calls + nodes, height + 1
    return calls + max(min(k, ceil(rows)) - 1, 0) * height


_LOWER: dict[type, Any] = {Join: _join, Rank: _rank, Resolve: _resolve}
