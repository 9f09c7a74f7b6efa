"""The steps that only the engine makes: what a `join`, a `rank` or a `resolve` comes to (`apwa_dask.plans.lowering`).

Each says which tables it reads and which columns it gives, as every step does; none is in the plan language.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import pyarrow as pa

from apwa_dask.plans.infer import CLUSTER_FIELDS, joined_names, joined_schema
from apwa_dask.plans.steps import CANDIDATE, CANDIDATES, RANK, LoweredStep, Map, Reduce

__all__ = [
    "Clustered",
    "Embed",
    "Joined",
    "Pairs",
    "Pool",
    "Ranked",
    "Tournament",
    "left_place",
    "pair_schema",
    "place_of",
    "plain_field",
    "right_place",
    "vector_of",
    "without_vector",
]

# --- columns of inner steps; no name in a plan holds a point


def left_place(step_id: str) -> str:
    """Column of the left row's position."""
    return f"{step_id}.left"


def right_place(step_id: str) -> str:
    """Column of the right row's position, or of the listed rows' positions."""
    return f"{step_id}.right"


def vector_of(step_id: str) -> str:
    """Column of the vectors by which the nearest rows are found."""
    return f"{step_id}.vector"


def place_of(step_id: str) -> str:
    """Column of a candidate's position."""
    return f"{step_id}.place"


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


# --- pairs of rows: of a join and of a resolve


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


# --- a ranking


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


# --- a table's rows, with what was found out of them


class _RowsOf(LoweredStep):
    """Rows of one table and new columns: the step reads what was found out, then the table."""

    left: str
    of: str

    meets: ClassVar[bool] = False

    @property
    def inputs_from(self) -> tuple[str, ...]:
        return (self.input, self.left)


class Ranked(_RowsOf):
    """The rows that a tournament chose: the step reads its ranks and the table."""

    op: Literal["ranked"] = "ranked"

    def columns_after(self, inputs: Sequence[pa.Schema]) -> pa.Schema:
        """The table's columns and the rank."""
        return inputs[1].append(pa.field(RANK, pa.int64()))


class Clustered(_RowsOf):
    """The rows of a table with their clusters: the step reads the judged pairs and the table."""

    op: Literal["clustered"] = "clustered"

    def columns_after(self, inputs: Sequence[pa.Schema]) -> pa.Schema:
        """The table's columns, then the cluster's."""
        return pa.schema([*without_vector(inputs[1], self.of), *CLUSTER_FIELDS])
