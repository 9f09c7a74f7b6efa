"""The steps of a plan: closed, typed, plain data.

Steps that call a model carry a `Contract`. Frame steps never call one. Each step names its input (a source
alias or an earlier step), so that a plan is a small directed acyclic graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, field_validator

from apwa_dask.plans.contract import Contract
from apwa_dask.plans.schema import Schema

__all__ = [
    "Aggregate",
    "Aggregation",
    "Assign",
    "Chunk",
    "Concat",
    "Distinct",
    "Explode",
    "Filter",
    "FlatMap",
    "FrameStep",
    "Join",
    "LLMStep",
    "Limit",
    "LoweredStep",
    "Map",
    "Merge",
    "Rank",
    "Reduce",
    "Resolve",
    "Sample",
    "Select",
    "Sort",
    "SortKey",
    "Step",
    "Where",
]

CANDIDATES = "candidates"
"""Column of the numbered right rows that a model chooses from, where a join has no block."""
CANDIDATE = "candidate"
"""Column of the numbers by which a model names rows that it ranks."""
RANK = "rank"
"""Column that a rank adds."""
CLUSTER, CANONICAL, EVIDENCE = "cluster", "canonical", "cluster_evidence"
"""Columns that a resolve adds."""
OTHER = "_other"
"""Ending of the second row's columns, where rows of one table meet."""
LABELS_AT_MOST = 50
"""Rows of a right table that is short enough to be listed in every prompt."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]


class _Step(BaseModel):
    """Traits have conservative defaults: an unknown step is a barrier that may change everything."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Name
    input: Name
    reason: str = ""

    row_local: ClassVar[bool] = False
    """Each output row depends on one input row: partitions and rows may be worked on alone."""
    calls_model: ClassVar[bool] = False

    @property
    def inputs_from(self) -> tuple[str, ...]:
        """Names of the tables or steps this step reads."""
        return (self.input,)


class LLMStep(_Step):
    """A step that calls a model under a contract."""

    calls_model: ClassVar[bool] = True
    contract: Contract


class FrameStep(_Step):
    """A step that never calls a model."""


class LoweredStep(FrameStep):
    """A step that only the engine makes (`apwa_dask.plans.lowering`); its ids are no names, so no plan has one."""

    id: str
    input: str

    def columns_after(self, inputs: Sequence[pa.Schema]) -> pa.Schema:
        """Visible columns, given those of the tables it reads."""
        raise TypeError(f"{type(self).__name__} says nothing of its columns")


class Map(LLMStep):
    """One row in, the same row out with new typed columns."""

    op: Literal["map"] = "map"
    row_local: ClassVar[bool] = True


class Filter(LLMStep):
    """Keep the rows for which the model answers true. ``contract.output`` is ``{"keep": boolean}``."""

    op: Literal["filter"] = "filter"
    row_local: ClassVar[bool] = True

    @field_validator("contract")
    @classmethod
    def _answers_keep(cls, contract: Contract) -> Contract:
        if contract.output.names == ("keep",) and contract.output.fields[0].type == "boolean":
            return contract
        raise ValueError("the output of a filter is exactly {keep: boolean}")

    @staticmethod
    def verdict() -> Schema:
        """The one output schema a filter has."""
        return Schema.of({"keep": bool})


class FlatMap(LLMStep):
    """One row in, zero to many rows out; the answer is a list of ``contract.output`` rows."""

    op: Literal["flat_map"] = "flat_map"
    row_local: ClassVar[bool] = True
    max_rows: int = Field(default=100, ge=1)


class Reduce(LLMStep):
    """A group, or the whole table, in; one row out. Runs as a tree of bounded prompts.

    With ``unit: partition`` and no `by`, each partition gives one row. A group whose tree would pass `max_levels`
    levels of notes fails as ``too_large``.
    """

    op: Literal["reduce"] = "reduce"
    by: tuple[str, ...] = ()
    max_levels: int = Field(default=32, ge=1, le=1_000)


class Join(LLMStep):
    """Rows of two tables that a model says belong together; ``contract.output`` is ``{"match": boolean}``.

    Candidate pairs come from a block: equal keys (`left_on`, `right_on`), a SQL `condition` over both rows, or
    the `nearest` texts (`similar_left`, `similar_right`); several of them narrow one another. Without any, the
    right table must be short: each left row is asked once, with all right rows to choose from. Right columns
    whose names the left table has get `suffix`; ``contract.inputs``, and the condition, use those names. A null in
    a key, or an empty text, matches nothing. ``semi`` and ``anti`` keep left rows with, or without, a match.
    """

    op: Literal["join"] = "join"
    right: Name
    how: Literal["inner", "left", "right", "outer", "semi", "anti"] = "inner"
    left_on: tuple[str, ...] = ()
    right_on: tuple[str, ...] = ()
    condition: str | None = Field(default=None, min_length=1)
    similar_left: tuple[str, ...] = ()
    similar_right: tuple[str, ...] = ()
    nearest: int = Field(default=5, ge=1, le=100)
    embed: Name | None = None
    """Alias of a model of embeddings, by which the nearest texts are found; by shared parts of words without one."""
    max_pairs_per_row: int = Field(default=100, ge=1)
    max_pairs: int = Field(default=1_000_000, ge=1)
    suffix: str = Field(default="_right", min_length=1)

    @field_validator("contract")
    @classmethod
    def _answers_match(cls, contract: Contract) -> Contract:
        if contract.output.names == ("match",) and contract.output.fields[0].type == "boolean":
            return contract
        raise ValueError("the output of a join is exactly {match: boolean}")

    @staticmethod
    def verdict() -> Schema:
        """The one output schema a join has."""
        return Schema.of(
            {"match": {"type": "boolean", "description": "true if the two rows meet the task, else false"}}
        )

    @property
    def inputs_from(self) -> tuple[str, ...]:
        return (self.input, self.right)

    @property
    def is_blocked(self) -> bool:
        """Whether candidate pairs come from a block, and not from a short right table."""
        return bool(self.left_on or self.condition or self.similar_left)


class Rank(LLMStep):
    """The `k` rows that best meet the instruction, best first, with the column ``rank`` (1 is best).

    A knock-out tournament: a model names the best of at most `width` rows at a time, by what
    ``contract.inputs`` show. Who meets whom is drawn by `seed`. ``contract.output`` is ``{"best": integer}``.
    """

    op: Literal["rank"] = "rank"
    k: int = Field(default=10, ge=1, le=1_000)
    width: int = Field(default=8, ge=2, le=20)
    seed: int = 0
    max_calls: int = Field(default=10_000, ge=1)

    @field_validator("contract")
    @classmethod
    def _answers_best(cls, contract: Contract) -> Contract:
        if contract.output.names == ("best",) and contract.output.fields[0].type == "integer":
            return contract
        raise ValueError("the output of a rank is exactly {best: integer}")

    @staticmethod
    def verdict() -> Schema:
        """The one output schema a rank has."""
        return Schema.of({"best": {"type": "integer", "description": "the number of the best candidate"}})


class Resolve(LLMStep):
    """Rows that are the same thing get one ``cluster``; ``contract.output`` is ``{"match": boolean}``.

    Candidate pairs come from a block within the table, as in a join: equal values `on` columns, a SQL `condition`
    (columns of the other row end in ``_other``), the `nearest` texts by the columns `similar`. A model judges each
    pair, seeing ``contract.inputs`` of both rows. Clusters are agreements without contradiction; where judgements
    contradict one another, the many overrule the few. Adds ``cluster`` (number of the chosen row in the table),
    ``canonical`` (whether the row is the chosen one) and ``cluster_evidence`` (counts of judgements, as JSON).
    """

    op: Literal["resolve"] = "resolve"
    on: tuple[str, ...] = ()
    condition: str | None = Field(default=None, min_length=1)
    similar: tuple[str, ...] = ()
    nearest: int = Field(default=5, ge=1, le=100)
    embed: Name | None = None
    """Alias of a model of embeddings, by which the nearest texts are found; by shared parts of words without one."""
    max_pairs_per_row: int = Field(default=100, ge=1)
    max_pairs: int = Field(default=1_000_000, ge=1)

    @field_validator("contract")
    @classmethod
    def _answers_match(cls, contract: Contract) -> Contract:
        if contract.output.names == ("match",) and contract.output.fields[0].type == "boolean":
            return contract
        raise ValueError("the output of a resolve is exactly {match: boolean}")

    @staticmethod
    def verdict() -> Schema:
        """The one output schema a resolve has."""
        return Schema.of(
            {"match": {"type": "boolean", "description": "true if both are the same by the task, else false"}}
        )

    @property
    def shown(self) -> tuple[str, ...]:
        """Columns of a pair that the model sees."""
        return (*self.contract.inputs, *(f"{name}{OTHER}" for name in self.contract.inputs))


class Where(FrameStep):
    """Keep the rows for which a SQL scalar expression is true."""

    op: Literal["where"] = "where"
    row_local: ClassVar[bool] = True
    condition: str = Field(min_length=1)


class Assign(FrameStep):
    """New or replaced columns, each a SQL scalar expression over the row as it came in."""

    op: Literal["assign"] = "assign"
    row_local: ClassVar[bool] = True
    columns: dict[Name, str] = Field(min_length=1)


class Select(FrameStep):
    """Keep these columns, in this order, some under a new name (``rename`` maps old to new)."""

    op: Literal["select"] = "select"
    row_local: ClassVar[bool] = True
    columns: tuple[str, ...] = Field(min_length=1)
    rename: dict[str, Name] = {}


class Explode(FrameStep):
    """One row for each element of a list column; an empty or null list gives one row with null."""

    op: Literal["explode"] = "explode"
    row_local: ClassVar[bool] = True
    column: str


class Chunk(FrameStep):
    """Cut a long text column into overlapping pieces, one row each.

    Adds the integer column ``<column>_chunk`` (0-based) and replaces ``column`` by the piece. With `headings`, adds
    ``<column>_headings``, the Markdown headings that the piece stands under (``Methods > Sampling``), and pieces end
    before a heading where they can.
    """

    op: Literal["chunk"] = "chunk"
    row_local: ClassVar[bool] = True
    column: str
    tokens: int = Field(default=1_000, ge=16)
    overlap_tokens: int = Field(default=50, ge=0)
    headings: bool = False

    @property
    def added(self) -> tuple[str, ...]:
        """Columns that are new."""
        number = f"{self.column}_chunk"
        return (number, f"{self.column}_headings") if self.headings else (number,)


class Aggregation(BaseModel):
    """One aggregate: a function over a column (``count`` without a column counts rows)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fn: Literal["count", "count_distinct", "sum", "mean", "min", "max", "median", "std", "any", "all"]
    column: str | None = None


class Aggregate(FrameStep):
    """Numbers by group, or one row for the whole table when `by` is empty."""

    op: Literal["aggregate"] = "aggregate"
    by: tuple[str, ...] = ()
    aggregates: dict[Name, Aggregation] = Field(min_length=1)


class SortKey(BaseModel):
    """One sort column. Nulls come last in both directions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str
    descending: bool = False


class Sort(FrameStep):
    """Stable order by one or several columns; ties keep the order of the input."""

    op: Literal["sort"] = "sort"
    by: tuple[SortKey, ...] = Field(min_length=1)


class Limit(FrameStep):
    """The first n rows of the table in its order."""

    op: Literal["limit"] = "limit"
    n: int = Field(ge=0)


class Distinct(FrameStep):
    """The first row of each distinct combination of `columns` (all columns when empty)."""

    op: Literal["distinct"] = "distinct"
    columns: tuple[str, ...] = ()


class Sample(FrameStep):
    """A seeded random sample: `n` rows, or a `fraction` of them."""

    op: Literal["sample"] = "sample"
    n: int | None = Field(default=None, ge=0)
    fraction: float | None = Field(default=None, ge=0, le=1)
    seed: int = 0


class Merge(FrameStep):
    """Equality join with another table. Clashing right columns get `suffix`."""

    op: Literal["merge"] = "merge"
    right: Name
    how: Literal["inner", "left", "right", "outer"] = "inner"
    left_on: tuple[str, ...] = Field(min_length=1)
    right_on: tuple[str, ...] = Field(min_length=1)
    suffix: str = Field(default="_right", min_length=1)

    meets: ClassVar[bool] = True
    """Each row's id is made of two."""

    @property
    def inputs_from(self) -> tuple[str, ...]:
        return (self.input, self.right)


class Concat(FrameStep):
    """The rows of several tables under one another; columns by name, missing ones null."""

    op: Literal["concat"] = "concat"
    others: tuple[Name, ...] = Field(min_length=1)

    @property
    def inputs_from(self) -> tuple[str, ...]:
        return (self.input, *self.others)


Step = Annotated[
    Map | Filter | FlatMap | Reduce | Join | Rank | Resolve
    | Where | Assign | Select | Explode | Chunk
    | Aggregate | Sort | Limit | Distinct | Sample | Merge | Concat,
    Field(discriminator="op"),
]  # fmt: skip
