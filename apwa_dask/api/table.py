"""`Table`: sources and the plan so far, with the verbs; lazy and immutable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask.dataframe as dd

from apwa_dask.api.naming import built, names_of
from apwa_dask.api.planned import PlannedQuery
from apwa_dask.api.settings import ModelLike, profile_of
from apwa_dask.api.table_base import OutputLike
from apwa_dask.api.table_meets import TableMeets
from apwa_dask.errors import PlanError, candidates
from apwa_dask.execution.run import Run
from apwa_dask.plans import explain as explaining
from apwa_dask.plans.schema import Schema
from apwa_dask.plans.steps import (
    Aggregate,
    Assign,
    Chunk,
    Distinct,
    Explode,
    Filter,
    FlatMap,
    Limit,
    Map,
    Reduce,
    Sample,
    Select,
    Sort,
    Where,
)
from apwa_dask.tables.profile import Profile
from apwa_dask.tables.seen import seen_through

__all__ = ["Table", "TableSet"]


@dataclass(frozen=True, eq=False)
class Table(TableMeets):
    """Sources and the plan so far: lazy, immutable, partitioned. Every verb makes a new Table; nothing is
    called.

    Made by `read`, `from_pandas` and `from_dask`.
    """

    # -- looking; never calls a model, never reads more than a sample

    @property
    def report(self) -> Any:
        """What reading found: each file with its format, rows, and the reason where it could not be read."""
        return self._report

    def profile(self, *, samples: int = 3) -> Profile:
        """Bounded metadata: what the manager sees. Columns that steps have dropped are not in it.

        Parameters
        ----------
        samples : int
            Sample values for each column; 0 shows none to anybody.
        """
        known = profile_of(next(iter(self._sources.values())), samples)
        return seen_through(known, self._steps, self.schema) if self._steps else known

    # -- verbs that call a model

    def map(
        self,
        instruction: str,
        *,
        inputs: Sequence[str] | str | None = None,
        output: OutputLike,
        unit: str = "row",
        tools: Sequence[str] = (),
        tables: Table | Sequence[Table] = (),
        model: str | None = None,
        examples: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]] = (),
        id: str | None = None,
    ) -> Table:
        """Add typed columns that a model answers for each row.

        Parameters
        ----------
        instruction : str
            The task in plain words.
        inputs : sequence of str, optional
            Columns that reach the prompt; all text columns when omitted.
        output : mapping, pydantic model class or Schema
            ``{"severity": int}``; label sets as ``{"topic": {"labels": {"billing": "charges, invoices"}}}``.
        unit : str
            ``row``, ``pack(n)`` or ``partition``.
        tools : sequence of str
            Capabilities that the agent of a row may call; only with unit ``row``.
        tables : Table or sequence of Table
            Tables as they were read, lent to these tools for look-ups; their rows reach no prompt unasked.
        examples : sequence of (inputs, output)
            Worked answers.
        """
        both, lent = self._lending(tables)
        contract = self._contract(instruction, inputs, Schema.of(output), unit, tools, model, examples, lent)
        return both._with(built(Map, id=both._new_id(id, "map"), input=self._head, contract=contract))

    def filter(
        self,
        instruction: str,
        *,
        inputs: Sequence[str] | str | None = None,
        unit: str = "row",
        model: str | None = None,
        examples: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]] = (),
        id: str | None = None,
    ) -> Table:
        """Keep the rows for which a model answers yes. Rows it could not judge are listed in the run's
        failures.
        """
        contract = self._contract(instruction, inputs, Filter.verdict(), unit, (), model, examples)
        return self._with(built(Filter, id=self._new_id(id, "filter"), input=self._head, contract=contract))

    def flat_map(
        self,
        instruction: str,
        *,
        inputs: Sequence[str] | str | None = None,
        output: OutputLike,
        max_rows: int = 100,
        model: str | None = None,
        examples: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]] = (),
        id: str | None = None,
    ) -> Table:
        """Zero to `max_rows` rows for each row, with the answered columns added."""
        contract = self._contract(instruction, inputs, Schema.of(output), "row", (), model, examples)
        step = built(
            FlatMap, id=self._new_id(id, "flat_map"), input=self._head, contract=contract, max_rows=max_rows
        )
        return self._with(step)

    def reduce(
        self,
        instruction: str,
        *,
        inputs: Sequence[str] | str | None = None,
        by: Sequence[str] | str = (),
        output: OutputLike,
        unit: str | None = None,
        max_levels: int = 32,
        model: str | None = None,
        id: str | None = None,
    ) -> Table:
        """One row for each group (or for the whole table), through a tree of bounded prompts.

        With ``unit="partition"`` each partition gives one row. A group that would need more than `max_levels`
        levels of notes fails as ``too_large``.
        """
        keys = names_of(by)
        whole = "group" if keys else "row"
        contract = self._contract(instruction, inputs, Schema.of(output), unit or whole, (), model, ())
        step = built(
            Reduce,
            id=self._new_id(id, "reduce"),
            input=self._head,
            contract=contract,
            by=keys,
            max_levels=max_levels,
        )
        return self._with(step)

    # -- verbs without any model call

    def where(self, condition: str, *, id: str | None = None) -> Table:
        """Keep the rows for which a SQL scalar expression is true."""
        return self._with(built(Where, id=self._new_id(id, "where"), input=self._head, condition=condition))

    def assign(self, *, id: str | None = None, **columns: str) -> Table:
        """Add or replace columns by SQL scalar expressions."""
        return self._with(built(Assign, id=self._new_id(id, "assign"), input=self._head, columns=columns))

    def select(self, *columns: str, id: str | None = None, **renamed: str) -> Table:
        """Keep these columns in this order; ``new="old"`` also renames."""
        step = built(
            Select,
            id=self._new_id(id, "select"),
            input=self._head,
            columns=(*columns, *renamed.values()),
            rename={old: new for new, old in renamed.items()},
        )
        return self._with(step)

    def drop(self, *columns: str) -> Table:
        """All columns but these; they reach no step and no prompt after this."""
        unknown = [name for name in columns if name not in self.columns]
        if unknown:
            raise PlanError(
                f"no column {unknown[0]!r} to drop",
                fix=candidates(unknown[0], self.columns, noun="columns"),
                code="PLAN-COLUMN",
            )
        return self.select(*[name for name in self.columns if name not in columns])

    def aggregate(self, *, by: Sequence[str] | str = (), id: str | None = None, **aggregates: Any) -> Table:
        """Numbers by group: ``n="count"``, ``mean_price=("mean", "price")``."""
        keys = (by,) if isinstance(by, str) else tuple(by)
        specs = {}
        for name, spec in aggregates.items():
            fn, column = (spec, None) if isinstance(spec, str) else spec
            specs[name] = {"fn": fn, "column": column}
        return self._with(
            built(Aggregate, id=self._new_id(id, "aggregate"), input=self._head, by=keys, aggregates=specs)
        )

    def sort(self, *columns: str, descending: bool = False, id: str | None = None) -> Table:
        """Stable order by columns, nulls last."""
        keys = [{"column": column, "descending": descending} for column in columns]
        return self._with(built(Sort, id=self._new_id(id, "sort"), input=self._head, by=keys))

    def limit(self, n: int, *, id: str | None = None) -> Table:
        """The first n rows."""
        return self._with(built(Limit, id=self._new_id(id, "limit"), input=self._head, n=n))

    def distinct(self, *columns: str, id: str | None = None) -> Table:
        """The first row of each distinct combination of these columns (of all when none is named)."""
        return self._with(built(Distinct, id=self._new_id(id, "distinct"), input=self._head, columns=columns))

    def sample(
        self, n: int | None = None, *, fraction: float | None = None, seed: int = 0, id: str | None = None
    ) -> Table:
        """A seeded random sample of `n` rows or of a `fraction`."""
        step = built(
            Sample, id=self._new_id(id, "sample"), input=self._head, n=n, fraction=fraction, seed=seed
        )
        return self._with(step)

    def explode(self, column: str, *, id: str | None = None) -> Table:
        """One row for each element of a list column."""
        return self._with(built(Explode, id=self._new_id(id, "explode"), input=self._head, column=column))

    def chunk(
        self,
        column: str,
        *,
        tokens: int = 1_000,
        overlap_tokens: int = 50,
        headings: bool = False,
        id: str | None = None,
    ) -> Table:
        """Cut a long text column into overlapping pieces, one row each, numbered in ``<column>_chunk``.

        With `headings`, ``<column>_headings`` holds the Markdown headings that each piece stands under.
        """
        step = built(
            Chunk,
            id=self._new_id(id, "chunk"),
            input=self._head,
            column=column,
            tokens=tokens,
            overlap_tokens=overlap_tokens,
            headings=headings,
        )
        return self._with(step)

    # -- running

    def plan(self, query: str = "") -> PlannedQuery:
        """The steps so far as a plan that can be explained, saved, estimated and run."""
        return PlannedQuery(self._as_plan(query), dict(self._sources))

    def explain(self) -> explaining.Explanation:
        """What would run, without running it."""
        return self.plan().explain()

    def run(self, **options: Any) -> Run:
        """Run the steps so far; returns the handle at once. Options: see `PlannedQuery.run`."""
        return self.plan().run(**options)

    def to_dask(self, *, model: ModelLike = None, store: str | None = None, **options: Any) -> dd.DataFrame:
        """A lazy Dask frame; the calls are in its graph, and each distinct request is made once.

        ``head()`` then ``compute()`` then ``len()`` pay for each row once: answers are journaled in `store`.
        """
        return self.plan().to_dask(model=model, store=store, **options)

    def __repr__(self) -> str:
        from apwa_dask.observe.reprs import table_text

        return table_text(self)

    def _repr_html_(self) -> str:
        from apwa_dask.observe.reprs import table_html

        return table_html(self)


class TableSet(Mapping[str, Table]):
    """Several tables by name: what a folder of mixed files holds."""

    def __init__(self, tables: Mapping[str, Table], report: Any) -> None:
        self._tables, self.report = dict(tables), report

    def __getitem__(self, name: str) -> Table:
        if name not in self._tables:
            raise KeyError(candidates(name, self._tables, noun="tables"))
        return self._tables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {', '.join(table.columns)}" for name, table in self._tables.items())
