"""`Table`: sources and the plan so far, with the verbs; lazy and immutable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import dask.dataframe as dd
import pyarrow as pa
from pydantic import BaseModel

from apwa_dask.api.naming import built, free_name, names_of, renamed_step
from apwa_dask.api.planned import PlannedQuery
from apwa_dask.api.settings import ModelLike, check_plan, profile_of
from apwa_dask.errors import PlanError, candidates
from apwa_dask.execution import launch as engine
from apwa_dask.execution.run import Run
from apwa_dask.plans import explain as explaining
from apwa_dask.plans.contract import Contract, Example
from apwa_dask.plans.infer import infer, joined_names
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.schema import Schema
from apwa_dask.plans.steps import (
    Aggregate,
    Assign,
    Chunk,
    Concat,
    Distinct,
    Explode,
    Filter,
    FlatMap,
    Join,
    Limit,
    Map,
    Merge,
    Reduce,
    Sample,
    Select,
    Sort,
    Step,
    Where,
)
from apwa_dask.tables.profile import Profile
from apwa_dask.tables.seen import seen_through

__all__ = ["Table", "TableSet"]

OutputLike = Schema | Mapping[str, Any] | type[BaseModel]


@dataclass(frozen=True, eq=False)
class Table:
    """Sources and the plan so far: lazy, immutable, partitioned. Every verb makes a new Table; nothing is
    called.

    Made by `read`, `from_pandas` and `from_dask`.
    """

    _sources: Mapping[str, engine.Source]
    _steps: tuple[Step, ...] = ()
    _head: str = ""
    _report: Any = field(default=None, repr=False)

    # -- looking; never calls a model, never reads more than a sample

    @property
    def schema(self) -> pa.Schema:
        """Visible columns after the steps so far."""
        return infer(self._as_plan(), self._catalog())[self._head]

    @property
    def columns(self) -> list[str]:
        """Names of the visible columns."""
        return list(self.schema.names)

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
        model: str | None = None,
        id: str | None = None,
    ) -> Table:
        """One row for each group (or for the whole table), through a tree of bounded prompts.

        With ``unit="partition"`` each partition gives one row.
        """
        keys = names_of(by)
        whole = "group" if keys else "row"
        contract = self._contract(instruction, inputs, Schema.of(output), unit or whole, (), model, ())
        return self._with(
            built(Reduce, id=self._new_id(id, "reduce"), input=self._head, contract=contract, by=keys)
        )

    def join(
        self,
        right: Table,
        instruction: str,
        *,
        inputs: Sequence[str] | str | None = None,
        how: str = "inner",
        on: Sequence[str] | str = (),
        left_on: Sequence[str] | str = (),
        right_on: Sequence[str] | str = (),
        condition: str | None = None,
        similar: Sequence[str] | str = (),
        similar_right: Sequence[str] | str | None = None,
        suffix: str = "_right",
        unit: str = "row",
        model: str | None = None,
        examples: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]] = (),
        id: str | None = None,
        **caps: int,
    ) -> Table:
        """Rows of this and another table that a model says belong together, among the pairs of a block.

        Parameters
        ----------
        right : Table
        instruction : str
            When two rows belong together.
        inputs : sequence of str, optional
            Columns of the pair that reach the prompt; right columns whose names this table has end in `suffix`.
            All text columns of both when omitted.
        how : str
            ``inner``, ``left``, ``right``, ``outer``, ``semi`` (rows with a match) or ``anti`` (rows without).
        on, left_on, right_on : sequence of str
            Columns that must be equal in a candidate pair. Null equals nothing.
        condition : str, optional
            SQL expression over the columns of the pair that must be true.
        similar, similar_right : sequence of str
            Text columns: only the ``nearest`` (default 5) right rows of each row are candidates, by shared parts
            of words. `similar_right` are the same columns when omitted.
        caps : int
            ``nearest``, ``max_pairs_per_row`` (default 100), ``max_pairs`` (default 1,000,000).

        Notes
        -----
        Without any of these, `right` must have at most 50 rows, and each row is asked once about all of them.
        """
        both, other = self._beside(right)
        shown = names_of(inputs) if inputs is not None else self._pair_texts(right, suffix)
        keys, near = names_of(on), names_of(similar)
        contract = self._contract(instruction, shown, Join.verdict(), unit, (), model, examples)
        step = built(
            Join,
            id=both._new_id(id, "join"),
            input=both._head,
            right=other,
            how=how,
            contract=contract,
            left_on=keys or names_of(left_on),
            right_on=keys or names_of(right_on),
            condition=condition,
            similar_left=near,
            similar_right=near if similar_right is None else names_of(similar_right),
            suffix=suffix,
            **caps,
        )
        return both._with(step)

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
        self, column: str, *, tokens: int = 1_000, overlap_tokens: int = 50, id: str | None = None
    ) -> Table:
        """Cut a long text column into overlapping pieces, one row each."""
        step = built(
            Chunk,
            id=self._new_id(id, "chunk"),
            input=self._head,
            column=column,
            tokens=tokens,
            overlap_tokens=overlap_tokens,
        )
        return self._with(step)

    def merge(
        self,
        right: Table,
        *,
        on: Sequence[str] | str = (),
        left_on: Sequence[str] | str = (),
        right_on: Sequence[str] | str = (),
        how: str = "inner",
        suffix: str = "_right",
        id: str | None = None,
    ) -> Table:
        """Equality join with another table."""
        left_keys = (on,) if isinstance(on, str) else tuple(on) or names_of(left_on)
        right_keys = (on,) if isinstance(on, str) else tuple(on) or names_of(right_on)
        if not left_keys or not right_keys:
            shared = [name for name in self.columns if name in right.columns]
            raise PlanError(
                "a merge needs the columns that must be equal",
                fix=f"on=..., or left_on=... and right_on=...; in both tables: {', '.join(shared) or 'none'}",
                code="PLAN-COLUMN",
            )
        both, other = self._beside(right)
        step = built(
            Merge,
            id=both._new_id(id, "merge"),
            input=both._head,
            right=other,
            how=how,
            left_on=left_keys,
            right_on=right_keys,
            suffix=suffix,
        )
        return both._with(step)

    def concat(self, *others: Table, id: str | None = None) -> Table:
        """The rows of this table, then those of the others."""
        both, names = self, []
        for table in others:
            both, name = both._beside(table)
            names.append(name)
        return both._with(built(Concat, id=both._new_id(id, "concat"), input=both._head, others=tuple(names)))

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

    # -- inside

    def _catalog(self) -> dict[str, pa.Schema]:
        return {alias: source.schema for alias, source in self._sources.items()}

    def _as_plan(self, query: str = "") -> Plan:
        return Plan(query=query, sources=tuple(self._sources), steps=self._steps, output=self._head)

    def _with(self, step: Step) -> Table:
        grown = replace(self, _steps=(*self._steps, step), _head=step.id)
        check_plan(grown._as_plan(), self._catalog())
        return grown

    def _new_id(self, wanted: str | None, op: str) -> str:
        taken = {step.id for step in self._steps} | set(self._sources)
        if wanted is not None:
            return wanted
        number = 1
        while f"{op}_{number}" in taken:
            number += 1
        return f"{op}_{number}"

    def _contract(
        self,
        instruction: str,
        inputs: Sequence[str] | str | None,
        output: Schema,
        unit: str,
        tools: Sequence[str],
        model: str | None,
        examples: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
        tables: tuple[str, ...] = (),
    ) -> Contract:
        columns = self._text_columns() if inputs is None else names_of(inputs)
        shown = tuple(Example(inputs=dict(given), output=dict(answer)) for given, answer in examples)
        contract: Contract = built(
            Contract,
            instruction=instruction,
            inputs=columns,
            output=output,
            unit=unit,
            tools=tuple(tools),
            tables=tables,
            model=model,
            examples=shown,
        )
        return contract

    def _text_columns(self) -> tuple[str, ...]:
        schema = self.schema
        text = tuple(f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type))
        return text or tuple(schema.names)

    def _lending(self, tables: Table | Sequence[Table]) -> tuple[Table, tuple[str, ...]]:
        """This table with those lent to a step's tools in the same plan; and their names there."""
        both, names = self, []
        for table in (tables,) if isinstance(tables, Table) else tables:
            if table._steps:
                raise PlanError(
                    "a table lent to tools must be as it was read",
                    why=f"this one has the step {table._head!r}, and tools may be called before it has run",
                    fix="run it first and lend its result: apwa.from_pandas(run.result())",
                    code="PLAN-TOOL-TABLES",
                )
            both, name = both._beside(table)
            names.append(name)
        return both, tuple(names)

    def _pair_texts(self, right: Table, suffix: str) -> tuple[str, ...]:
        """The text columns of both tables, by their names in a join."""
        renamed = joined_names(self.columns, right.columns, suffix)
        return (*self._text_columns(), *(renamed[name] for name in right._text_columns()))

    def _beside(self, other: Table) -> tuple[Table, str]:
        """This table with another's sources and steps in the same plan; and the other's name there."""
        renamed: dict[str, str] = {}
        sources = dict(self._sources)
        taken = set(sources) | {step.id for step in self._steps}
        for alias, source in other._sources.items():
            same = sources.get(alias) is source
            renamed[alias] = alias if same or alias not in taken else free_name(alias, taken)
            sources[renamed[alias]] = source
            taken.add(renamed[alias])
        steps = list(self._steps)
        for step in other._steps:
            if step in steps and all(renamed[name] == name for name in step.inputs_from):
                renamed[step.id] = step.id
                continue
            renamed[step.id] = step.id if step.id not in taken else free_name(step.id, taken)
            taken.add(renamed[step.id])
            steps.append(renamed_step(step, renamed))
        return replace(self, _sources=sources, _steps=tuple(steps)), renamed[other._head]

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
