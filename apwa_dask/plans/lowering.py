"""Steps that are made of others: what a `join` comes to, as a free step, a judged one and another free step.

A join becomes ``pairs`` (candidate pairs, found by the block), a `Map` that judges one pair a row, and
``rows`` (the rows of both tables, put together by verdict). So a pair is a row like any other: journaled, packed,
tried again, counted and priced. These inner steps are in no plan language: only `lowered` makes them, their ids
hold a point, and what a user reads, keeps and edits is the plan as it was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, ClassVar, Literal

import pyarrow as pa

from apwa_dask.plans.contract import Contract
from apwa_dask.plans.infer import CLUSTER_FIELDS, Catalog, infer, joined_names, joined_schema
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.schema import Field, Schema
from apwa_dask.plans.steps import (
    CANDIDATE,
    CANDIDATES,
    OTHER,
    RANK,
    Join,
    LoweredStep,
    Map,
    Rank,
    Reduce,
    Resolve,
)

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


def left_place(step_id: str) -> str:
    """Column of the left row's position; no name in a plan holds a point."""
    return f"{step_id}.left"


def right_place(step_id: str) -> str:
    """Column of the right row's position, or of the listed rows' positions."""
    return f"{step_id}.right"


def vector_of(step_id: str) -> str:
    """Column of the vectors by which the nearest rows are found."""
    return f"{step_id}.vector"


class Embed(Map):
    """A vector for each row: base64 of little-endian float32, null for a row without text.

    A model step like any other, so that each distinct text is journaled, tried again, counted and priced.
    """

    id: str
    input: str
    of: str

    def columns_after(self, inputs: Sequence[pa.Schema]) -> pa.Schema:
        """The table's columns and the vector."""
        return pa.schema([*inputs[0], pa.field(vector_of(self.of), pa.string())])


class Pairs(LoweredStep):
    """Candidate pairs of two tables: the cells a model will see, and both rows' positions."""

    op: Literal["pairs"] = "pairs"
    right: str
    of: str
    """The step in the plan."""
    left_on: tuple[str, ...] = ()
    right_on: tuple[str, ...] = ()
    condition: str | None = None
    similar_left: tuple[str, ...] = ()
    similar_right: tuple[str, ...] = ()
    nearest: int = 5
    embeds: bool = False
    """Likeness is the cosine of the vectors in the column `vector_of` of both tables."""
    max_pairs_per_row: int = 100
    max_pairs: int = 1_000_000
    suffix: str = "_right"
    shown: tuple[str, ...]
    """Columns of the pair that the model sees."""
    left_names: tuple[str, ...]
    """All columns of the left table: right ones of these names get the suffix."""
    is_within: bool = False
    """Both tables are one: each pair of its rows once, and no row with itself."""
    is_listed: bool = False
    """One row for each left row, with all right rows in the column `CANDIDATES`."""

    @property
    def inputs_from(self) -> tuple[str, ...]:
        return (self.input, self.right)

    @property
    def meets(self) -> bool:
        """Whether each row's id is made of two."""
        return not self.is_listed

    def columns_after(self, inputs: Sequence[pa.Schema]) -> pa.Schema:
        """Shown cells, then positions."""
        whole = pair_schema(inputs[0], inputs[1], self.suffix)
        place = pa.field(left_place(self.of), pa.int64())
        if not self.is_listed:
            shown = [whole.field(name).remove_metadata() for name in self.shown]
            return pa.schema([*shown, place, pa.field(right_place(self.of), pa.int64())])
        mine = [whole.field(name).remove_metadata() for name in self.shown if name in inputs[0].names]
        listed = pa.field(right_place(self.of), pa.list_(pa.int64()))
        return pa.schema([pa.field(CANDIDATES, pa.string()), *mine, place, listed])


class Joined(LoweredStep):
    """The rows of both tables by verdict: the step reads the judged pairs, the left and the right table."""

    op: Literal["rows"] = "rows"
    left: str
    right: str
    of: str
    how: Literal["inner", "left", "right", "outer", "semi", "anti"]
    suffix: str = "_right"
    is_listed: bool = False

    @property
    def inputs_from(self) -> tuple[str, ...]:
        return (self.input, self.left, self.right)

    @property
    def meets(self) -> bool:
        """Whether each row's id is made of two."""
        return self.how not in ("semi", "anti")

    def columns_after(self, inputs: Sequence[pa.Schema]) -> pa.Schema:
        """As the join declares them."""
        left, right = (without_vector(schema, self.of) for schema in inputs[1:])
        return joined_schema(self.how, self.suffix, left, right)


def place_of(step_id: str) -> str:
    """Column of a candidate's position."""
    return f"{step_id}.place"


class Pool(LoweredStep):
    """All candidates of a ranking in one partition: the cells a model will see, and positions."""

    op: Literal["pool"] = "pool"
    of: str
    shown: tuple[str, ...]

    def columns_after(self, inputs: Sequence[pa.Schema]) -> pa.Schema:
        """The number in a question (0 until asked), shown cells, position."""
        shown = [plain_field(inputs[0].field(name)) for name in self.shown]
        return pa.schema([pa.field(CANDIDATE, pa.int64()), *shown, pa.field(place_of(self.of), pa.int64())])


class Tournament(Reduce):
    """The questions of a ranking; one prompt holds a few candidates, as a reduce's prompt holds rows."""

    input: str
    k: int
    width: int
    seed: int
    max_calls: int

    def columns_after(self, inputs: Sequence[pa.Schema]) -> pa.Schema:
        """Positions and ranks."""
        return pa.schema([(place_of(self.id), pa.int64()), (RANK, pa.int64())])


class Ranked(LoweredStep):
    """The rows that a tournament chose: the step reads its ranks and the table."""

    op: Literal["ranked"] = "ranked"
    left: str
    of: str

    meets: ClassVar[bool] = False

    @property
    def inputs_from(self) -> tuple[str, ...]:
        return (self.input, self.left)

    def columns_after(self, inputs: Sequence[pa.Schema]) -> pa.Schema:
        """The table's columns and the rank."""
        return inputs[1].append(pa.field(RANK, pa.int64()))


class Clustered(LoweredStep):
    """The rows of a table with their clusters: the step reads the judged pairs and the table."""

    op: Literal["clustered"] = "clustered"
    left: str
    of: str

    meets: ClassVar[bool] = False

    @property
    def inputs_from(self) -> tuple[str, ...]:
        return (self.input, self.left)

    def columns_after(self, inputs: Sequence[pa.Schema]) -> pa.Schema:
        """The table's columns, then the cluster's."""
        return pa.schema([*without_vector(inputs[1], self.of), *CLUSTER_FIELDS])


def calls_at_most(rows: float, k: int, width: int) -> int:
    """Questions of a tournament: the first round, then the champion's path for each further place."""
    calls, height, nodes = 0, 0, max(ceil(rows), 0)
    while nodes > 1:
        nodes = -(-nodes // width)
        calls, height = calls + nodes, height + 1
    return calls + max(min(k, ceil(rows)) - 1, 0) * height


def plain_field(field: pa.Field) -> pa.Field:
    """The column with categories by their values."""
    of = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    return pa.field(field.name, of)


def without_vector(schema: pa.Schema, step_id: str) -> pa.Schema:
    """The columns that the table had before it was embedded."""
    return pa.schema(
        [field for field in schema if field.name != vector_of(step_id)], metadata=schema.metadata
    )


def pair_schema(left: pa.Schema, right: pa.Schema, suffix: str) -> pa.Schema:
    """All columns of a pair of rows, by the names they have in a contract and a condition."""
    added = joined_names(left.names, right.names, suffix)
    return pa.schema([*left, *(right.field(old).with_name(new) for old, new in added.items())])


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


_LOWER: dict[type, Any] = {Join: _join, Rank: _rank, Resolve: _resolve}
