"""The face: read tables, write or draft plans, run them. Imports the rooms; nothing imports it but the
command line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import dask.dataframe as dd
import pandas as pd
import pyarrow as pa
from pydantic import BaseModel

from apwa_dask import config
from apwa_dask.agents.agent import Agent
from apwa_dask.agents.capabilities import known_capabilities
from apwa_dask.errors import ConfigError, PlanError, candidates
from apwa_dask.execution import launch as engine
from apwa_dask.execution.executors import executor_for, executors_of_lazy
from apwa_dask.execution.run import Run
from apwa_dask.models.budget import Budget
from apwa_dask.models.defaults import resolve_models
from apwa_dask.models.model import Model
from apwa_dask.optimize import estimate as estimate_steps
from apwa_dask.optimize import optimize
from apwa_dask.optimize.forecast import Estimate
from apwa_dask.plans import explain as explaining
from apwa_dask.plans.contract import Contract, Example
from apwa_dask.plans.infer import infer
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
from apwa_dask.plans.validate import validate
from apwa_dask.store.names import default_store
from apwa_dask.store.runs import RunStore, RunSummary
from apwa_dask.tables.profile import Profile, profile_frame, profile_source
from apwa_dask.tables.seen import seen_through
from apwa_dask.tables.sources import read_sources

__all__ = [
    "PlannedQuery",
    "Table",
    "TableSet",
    "ask",
    "attach",
    "from_dask",
    "from_pandas",
    "load_plan",
    "plan",
    "read",
    "runs",
]

ModelLike = Model | str | Mapping[str, Model | str] | None
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
        known = _profile_of(next(iter(self._sources.values())), samples)
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
        examples : sequence of (inputs, output)
            Worked answers.
        """
        contract = self._contract(instruction, inputs, Schema.of(output), unit, tools, model, examples)
        return self._with(Map(id=self._new_id(id, "map"), input=self._head, contract=contract))

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
        return self._with(Filter(id=self._new_id(id, "filter"), input=self._head, contract=contract))

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
        step = FlatMap(
            id=self._new_id(id, "flat_map"), input=self._head, contract=contract, max_rows=max_rows
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
        keys = _names(by)
        whole = "group" if keys else "row"
        contract = self._contract(instruction, inputs, Schema.of(output), unit or whole, (), model, ())
        return self._with(Reduce(id=self._new_id(id, "reduce"), input=self._head, contract=contract, by=keys))

    # -- verbs without any model call

    def where(self, condition: str, *, id: str | None = None) -> Table:
        """Keep the rows for which a SQL scalar expression is true."""
        return self._with(Where(id=self._new_id(id, "where"), input=self._head, condition=condition))

    def assign(self, *, id: str | None = None, **columns: str) -> Table:
        """Add or replace columns by SQL scalar expressions."""
        return self._with(Assign(id=self._new_id(id, "assign"), input=self._head, columns=columns))

    def select(self, *columns: str, id: str | None = None, **renamed: str) -> Table:
        """Keep these columns in this order; ``new="old"`` also renames."""
        step = Select(
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
            _built(Aggregate, id=self._new_id(id, "aggregate"), input=self._head, by=keys, aggregates=specs)
        )

    def sort(self, *columns: str, descending: bool = False, id: str | None = None) -> Table:
        """Stable order by columns, nulls last."""
        keys = [{"column": column, "descending": descending} for column in columns]
        return self._with(_built(Sort, id=self._new_id(id, "sort"), input=self._head, by=keys))

    def limit(self, n: int, *, id: str | None = None) -> Table:
        """The first n rows."""
        return self._with(Limit(id=self._new_id(id, "limit"), input=self._head, n=n))

    def distinct(self, *columns: str, id: str | None = None) -> Table:
        """The first row of each distinct combination of these columns (of all when none is named)."""
        return self._with(Distinct(id=self._new_id(id, "distinct"), input=self._head, columns=columns))

    def sample(
        self, n: int | None = None, *, fraction: float | None = None, seed: int = 0, id: str | None = None
    ) -> Table:
        """A seeded random sample of `n` rows or of a `fraction`."""
        step = Sample(id=self._new_id(id, "sample"), input=self._head, n=n, fraction=fraction, seed=seed)
        return self._with(step)

    def explode(self, column: str, *, id: str | None = None) -> Table:
        """One row for each element of a list column."""
        return self._with(Explode(id=self._new_id(id, "explode"), input=self._head, column=column))

    def chunk(
        self, column: str, *, tokens: int = 1_000, overlap_tokens: int = 50, id: str | None = None
    ) -> Table:
        """Cut a long text column into overlapping pieces, one row each."""
        step = Chunk(
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
        left_keys = (on,) if isinstance(on, str) else tuple(on) or _names(left_on)
        right_keys = (on,) if isinstance(on, str) else tuple(on) or _names(right_on)
        both, other = self._beside(right)
        step = _built(
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
        return both._with(
            _built(Concat, id=both._new_id(id, "concat"), input=both._head, others=tuple(names))
        )

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
        _check(grown._as_plan(), self._catalog())
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
    ) -> Contract:
        columns = self._text_columns() if inputs is None else _names(inputs)
        shown = tuple(Example(inputs=dict(given), output=dict(answer)) for given, answer in examples)
        contract: Contract = _built(
            Contract,
            instruction=instruction,
            inputs=columns,
            output=output,
            unit=unit,
            tools=tuple(tools),
            model=model,
            examples=shown,
        )
        return contract

    def _text_columns(self) -> tuple[str, ...]:
        schema = self.schema
        text = tuple(f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type))
        return text or tuple(schema.names)

    def _beside(self, other: Table) -> tuple[Table, str]:
        """This table with another's sources and steps in the same plan; and the other's name there."""
        renamed: dict[str, str] = {}
        sources = dict(self._sources)
        taken = set(sources) | {step.id for step in self._steps}
        for alias, source in other._sources.items():
            same = sources.get(alias) is source
            renamed[alias] = alias if same or alias not in taken else _free(alias, taken)
            sources[renamed[alias]] = source
            taken.add(renamed[alias])
        steps = list(self._steps)
        for step in other._steps:
            if step in steps and all(renamed[name] == name for name in step.inputs_from):
                renamed[step.id] = step.id
                continue
            renamed[step.id] = step.id if step.id not in taken else _free(step.id, taken)
            taken.add(renamed[step.id])
            steps.append(_renamed(step, renamed))
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


@dataclass(frozen=True, eq=False)
class PlannedQuery:
    """A valid plan together with the tables it is for."""

    plan: Plan
    sources: Mapping[str, engine.Source]
    notes: tuple[str, ...] = ()
    """What the user should know about how the plan came about (drafted by the embedded model, for
    example).
    """
    calls: int = 0
    """Calls that drafting it took; answers kept from an earlier draft are not among them."""

    def explain(self, *, model: ModelLike = None) -> explaining.Explanation:
        """Numbered steps, columns in and out, instructions, units, estimates, warnings. Makes no call."""
        try:
            estimates = self.estimate(model=model).steps
        except ConfigError:
            if model is not None:
                raise
            estimates = {}  # no model is named yet: the plan can be looked at all the same
        return explaining.explain(self.plan, self._catalog(), estimates=estimates)

    def estimate(self, *, model: ModelLike = None) -> Estimate:
        """Calls, tokens and USD, each low, expected and high; unknown where unknown. Makes no call."""
        if not self.plan.llm_steps:
            return Estimate({})
        profiles = {alias: _profile_of(self.sources[alias], 0) for alias in self.plan.sources}
        catalog = self._catalog()
        plan = optimize(self.plan, catalog).plan
        found = estimate_steps(plan, catalog, profiles, resolve_models(_configured(model)))
        return Estimate({step.id: found[step.id] for step in plan.llm_steps if step.id in found})

    def prompt_for(
        self, row: Mapping[str, Any], step: str | None = None, *, model: ModelLike = None
    ) -> bytes:
        """The exact body of the request about one row: what would be sent, byte for byte.

        Parameters
        ----------
        row : mapping
            Values of the step's input columns.
        step : str, optional
            Id of a model step; the first one when omitted.
        """
        chosen = self.plan.step(step) if step else self.plan.llm_steps[0]
        described = resolve_models(_configured(model))[chosen.contract.model or ""]
        schemas = infer(self.plan, self._catalog())
        request = Agent(chosen, described.pinned(), schemas[chosen.input]).begin(row).request
        if request is None:
            raise ConfigError(
                "no request would be made for this row",
                why="none of its input columns has a usable value",
                fix=f"give values for {', '.join(chosen.contract.inputs)}",
                code="CONFIG-ROW",
            )
        return request.body()

    def to_yaml(self) -> str:
        """The plan as text to keep, edit and load again with `load_plan`."""
        return self.plan.to_yaml()

    def run(
        self,
        *,
        model: ModelLike = None,
        store: str | None = None,
        client: Any = None,
        scheduler: str | None = None,
        budget: Budget | float | None = None,
        max_concurrency: int | None = None,
        on_error: str | None = None,
        name: str = "",
        storage_options: Mapping[str, Any] | None = None,
        namespace: str = "default",
        grants: Sequence[str] = (),
        progress: Any = None,
        optimized: bool = True,
    ) -> Run:
        """Run the plan; returns its handle at once, so that an interrupted cell still has it.

        Parameters
        ----------
        model : Model, str or mapping of str to Model, optional
            The model, its name, or one for each alias that the plan names. Default: the configured endpoint,
            else the embedded model.
        store : str, optional
            fsspec URL for journal, runs and results; a per-user folder by default.
        client : distributed.Client, optional
            Where to run; otherwise threads of this process, or `scheduler` ``"sync"``.
        budget : float or Budget, optional
            Ceiling in USD, or ``Budget(usd=, tokens=, calls=)``.
        max_concurrency : int, optional
            Calls in flight per endpoint, over all processes.
        on_error : str
            ``keep`` failed rows with nulls (default), ``drop`` them, or ``raise`` at the first.
        grants : sequence of str
            Capabilities whose power to reach the network or to write you allow in this run.
        progress : bool or callable, optional
            Show progress (default: where a person can see it), or a subscriber of events.
        optimized : bool
            Apply rewrites that change no result (filters and limits before model calls); False runs it as
            written.

        Raises
        ------
        PlanError, ConfigError
            Before any call.
        """
        settings = self._settings(
            model, store, storage_options, namespace, budget, max_concurrency, on_error, name, grants
        )
        subscribers = _subscribers(progress)
        plan = optimize(self.plan, self._catalog()).plan if optimized else self.plan
        run = engine.launch(plan, self.sources, settings, executor_for(client, scheduler), subscribers)
        return run.start()

    def to_dask(
        self, *, model: ModelLike = None, store: str | None = None, status: bool = False, **options: Any
    ) -> dd.DataFrame:
        """A lazy Dask frame with the calls in its graph."""
        settings = self._settings(
            model,
            store,
            options.get("storage_options"),
            options.get("namespace", "default"),
            options.get("budget"),
            options.get("max_concurrency"),
            options.get("on_error"),
            options.get("name", ""),
        )
        executors = executors_of_lazy(options.get("client"))
        return engine.lazy(self.plan, self.sources, settings, executors, status=status)

    def preview(self, n: int = 20, *, seed: int = 0, **options: Any) -> pd.DataFrame:
        """Run the plan on a small sample; its answers are kept, so the full run does not pay for them
        again.
        """
        alias = self.plan.sources[0]
        sample = Sample(id=_free("preview", {s.id for s in self.plan.steps}), input=alias, n=n, seed=seed)
        steps = [_renamed(step, {alias: sample.id}, keep_id=True) for step in self.plan.steps]
        result = sample.id if self.plan.result == alias else self.plan.result
        plan = self.plan.model_copy(update={"steps": (sample, *steps), "output": result})
        return replace(self, plan=plan).run(**{"progress": False, **options}).result(status=True)

    def _catalog(self) -> dict[str, pa.Schema]:
        return {alias: self.sources[alias].schema for alias in self.plan.sources}

    def _settings(
        self,
        model: ModelLike,
        store: str | None,
        store_options: Mapping[str, Any] | None,
        namespace: str,
        budget: Budget | float | None,
        max_concurrency: int | None,
        on_error: str | None,
        name: str,
        grants: Sequence[str] = (),
    ) -> engine.Settings:
        needs_model = bool(self.plan.llm_steps)
        return engine.Settings(
            models=resolve_models(_configured(model)) if needs_model else {},
            store=_store_url(store),
            store_options=store_options,
            namespace=namespace,
            budget=Budget.of(budget).as_dict() if budget is not None else {},
            max_concurrency=config.get("max-concurrency", max_concurrency),
            on_error=config.get("on-error", on_error),
            name=name or self.plan.query[:80],
            grants=tuple(grants),
        )

    def __repr__(self) -> str:
        return explaining.summary(self.plan)

    def _repr_html_(self) -> str:
        return self.explain().html()


# -- making tables


def read(
    urlpath: str | Sequence[str],
    *,
    documents: bool = False,
    hide: Sequence[str] = (),
    sample: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Table | TableSet:
    """Read files into a table; a folder of mixed shapes gives one table for each, by name.

    Parameters
    ----------
    urlpath : str or sequence of str
        fsspec URLs, globs or folders: Parquet, Arrow, CSV, JSON, JSON Lines, text, Markdown, HTML, PDF,
        images, and any of them compressed.
    documents : bool
        One table of documents instead (``path``, ``page``, ``text``, ``media``).
    hide : sequence of str
        Columns that nothing after this may see.
    sample : int, optional
        The first so many rows only.

    Raises
    ------
    SourceError
        Nothing matches, or nothing can be read; single unreadable files are named in ``table.report``.
    """
    found = read_sources(urlpath, documents=documents, storage_options=storage_options, **options)
    tables = {}
    for name, source in found.items():
        table = Table({name: engine.FileSource(source.manifest, storage_options)}, (), name, found.report)
        hidden = [column for column in hide if column in table.columns]
        table = table.drop(*hidden) if hidden else table
        tables[name] = table.limit(sample) if sample is not None else table
    missing = [column for column in hide if not any(column in found[n].manifest.schema.names for n in found)]
    if missing:
        known = sorted({column for n in found for column in found[n].manifest.schema.names})
        raise PlanError(
            f"no column {missing[0]!r} to hide",
            fix=candidates(missing[0], known, noun="columns"),
            code="PLAN-COLUMN",
        )
    return next(iter(tables.values())) if len(tables) == 1 else TableSet(tables, found.report)


def from_pandas(frame: pd.DataFrame, *, npartitions: int = 1, name: str = "table") -> Table:
    """A table over a pandas frame; index, order and dtypes come back as they were."""
    table = Table({name: engine.PandasSource(_checked(frame, frame), npartitions)}, (), name)
    table.schema  # noqa: B018 - a column that no table can hold is refused here
    return table


def from_dask(frame: dd.DataFrame, *, name: str = "table") -> Table:
    """A table over a Dask frame; its partitions and its graph stay as they are."""
    _checked(frame._meta, frame)
    return Table({name: engine.FrameSource(frame)}, (), name)


def _checked(meta: pd.DataFrame, frame: Any) -> Any:
    names = [str(name) for name in meta.columns]
    if len(set(names)) < len(names):
        raise ConfigError(
            "the frame has two columns of one name",
            where=", ".join(sorted({name for name in names if names.count(name) > 1})),
            fix="rename them first: frame.columns = [...]",
            code="CONFIG-FRAME",
        )
    if any(name.startswith("_apwa") for name in names):
        raise ConfigError(
            "column names that start with _apwa are ours",
            fix="rename them first",
            code="CONFIG-FRAME",
        )
    return frame


# -- asking


def plan(
    query: str,
    *tables: Table | TableSet,
    model: ModelLike = None,
    samples: int = 3,
    store: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **named: Table,
) -> PlannedQuery:
    """Let a manager model draft a plan for a question, over profiles of the tables, and check it.

    Parameters
    ----------
    query : str
        What you want to know or to have done, in plain language.
    *tables, **named : Table
        What it is about; names given as keywords are the names in the plan.
    model : Model, str or mapping, optional
        The manager (its default entry, or the alias ``manager``).
    samples : int
        Values of each column shown to the manager; 0 for none.
    store : str, optional
        Where drafts are kept: the same question over the same profiles is not paid twice.

    Raises
    ------
    RefusalError
        The data cannot answer the question, says the manager.
    PlanError
        No valid plan came out after the repair rounds; nothing runs. No data call is made in any case.
    """
    from apwa_dask.execution.loop import run_sync
    from apwa_dask.execution.single import PlanningCaller
    from apwa_dask.manager import draft_async

    given = _named_tables(tables, named)
    models = resolve_models(_configured(model))
    manager = models.get("manager", models[""])
    caller = PlanningCaller(_store_url(store), storage_options=storage_options)
    catalog = {name: (table.schema, table.profile(samples=samples)) for name, table in given.items()}
    try:
        drafted = run_sync(draft_async(query, catalog, manager.pinned(), caller))
    finally:
        caller.flush()
    merged, sources = _inlined(drafted.plan, given)
    return PlannedQuery(merged, sources, drafted.notes, caller.paid_calls)


def ask(
    query: str,
    *tables: Table | TableSet,
    model: ModelLike = None,
    budget: Budget | float | None = None,
    **options: Any,
) -> Run:
    """Plan and run in one breath: ``ask("Which are complaints?", reviews, budget=2).result()``."""
    named = {
        name: options.pop(name) for name in list(options) if isinstance(options[name], (Table, TableSet))
    }
    planned = plan(query, *tables, model=model, **named)
    return planned.run(model=model, budget=budget, **options)


def load_plan(path_or_yaml: str, tables: Table | TableSet | Mapping[str, Table]) -> PlannedQuery:
    """A plan from a YAML file or text, checked against these tables."""
    text = path_or_yaml
    if "\n" not in path_or_yaml:
        with open(path_or_yaml, encoding="utf-8") as file:
            text = file.read()
    loaded = Plan.from_yaml(text)
    given = _named_tables(
        (tables,) if isinstance(tables, (Table, TableSet)) else (),
        dict(tables) if isinstance(tables, Mapping) and not isinstance(tables, TableSet) else {},
    )
    if len(given) == 1 and len(loaded.sources) == 1:
        given = {loaded.sources[0]: next(iter(given.values()))}
    _check(loaded, {name: table.schema for name, table in given.items()})
    merged, sources = _inlined(loaded, given)
    return PlannedQuery(merged, sources)


# -- runs


def runs(store: str | None = None, *, storage_options: Mapping[str, Any] | None = None) -> list[RunSummary]:
    """All runs in a store, newest first."""
    return [
        info
        for info in RunStore(_store_url(store), storage_options).list()
        if not info.run_id.startswith("lazy-")
    ]


def attach(
    run_id: str,
    store: str | None = None,
    *,
    client: Any = None,
    scheduler: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: Any = None,
) -> Run:
    """Find a run again, in any process: look at it, or go on with ``resume()``."""
    return engine.attach(
        _store_url(store), run_id, executor_for(client, scheduler), storage_options, _subscribers(progress)
    )


# -- inside


def _check(plan: Plan, catalog: Mapping[str, pa.Schema]) -> None:
    """Validate a plan whose model aliases get their models only when it runs."""
    aliases = {step.contract.model for step in plan.llm_steps if step.contract.model is not None}
    validate(plan, catalog, tools=frozenset(known_capabilities()), models=frozenset(aliases))


def _profile_of(source: engine.Source, samples: int) -> Profile:
    if isinstance(source, engine.FileSource):
        return profile_source(source, samples=samples)
    if isinstance(source, engine.PandasSource):
        rows = len(source.frame)
        return profile_frame(source.frame, rows=rows, npartitions=source.npartitions, samples=samples)
    first = source.frame.partitions[0].compute(scheduler="threads") if samples else source.frame._meta
    return profile_frame(first, rows=None, npartitions=source.frame.npartitions, samples=samples)


def _named_tables(tables: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Table]:
    given: dict[str, Table] = {}
    for table in tables:
        if isinstance(table, TableSet):
            given.update(table)
        elif isinstance(table, Table):
            given[_free(table._head if not table._steps else next(iter(table._sources)), set(given))] = table
        elif isinstance(table, pd.DataFrame):
            given[_free("table", set(given))] = from_pandas(table)
        elif isinstance(table, dd.DataFrame):
            given[_free("table", set(given))] = from_dask(table)
        else:
            raise ConfigError(
                f"{type(table).__name__} is no table",
                fix="pass what apwa.read(...) gives, a pandas frame or a Dask frame",
                code="CONFIG-TABLE",
            )
    for name, table in named.items():
        given[name] = _named_tables((table,), {}).popitem()[1]
    if not given:
        raise ConfigError("no table was given", fix="apwa.ask(query, apwa.read(...))", code="CONFIG-TABLE")
    return given


def _inlined(drafted: Plan, given: Mapping[str, Table]) -> tuple[Plan, dict[str, engine.Source]]:
    """The drafted plan over the tables' own sources and earlier steps."""
    sources: dict[str, engine.Source] = {}
    steps: list[Step] = []
    renamed: dict[str, str] = {}
    taken = {step.id for step in drafted.steps}
    for name in drafted.sources:
        table = given[name]
        inner: dict[str, str] = {}
        for alias, source in table._sources.items():
            wanted = name if len(table._sources) == 1 else alias
            inner[alias] = _free(wanted, taken)
            taken.add(inner[alias])
            sources[inner[alias]] = source
        for step in table._steps:
            inner[step.id] = _free(f"{name}_{step.id}" if step.id in taken else step.id, taken)
            taken.add(inner[step.id])
            steps.append(_renamed(step, inner))
        renamed[name] = inner[table._head]
    own = [_renamed(step, renamed, keep_id=True) for step in drafted.steps]
    result = renamed.get(drafted.result, drafted.result)
    merged = Plan(query=drafted.query, sources=tuple(sources), steps=(*steps, *own), output=result)
    return merged, sources


def _renamed(step: Step, names: Mapping[str, str], *, keep_id: bool = False) -> Step:
    """A step with the tables it reads (and its own id) under other names."""
    update: dict[str, Any] = {"input": names.get(step.input, step.input)}
    if not keep_id:
        update["id"] = names.get(step.id, step.id)
    if isinstance(step, Merge):
        update["right"] = names.get(step.right, step.right)
    if isinstance(step, Concat):
        update["others"] = tuple(names.get(name, name) for name in step.others)
    return step.model_copy(update=update)


def _free(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"


def _names(columns: Sequence[str] | str) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else tuple(columns)


def _built(kind: type[Any], **values: Any) -> Any:
    """A step or contract from the user's own words, a wrong one as a teaching error."""
    from pydantic import ValidationError

    from apwa_dask.plans.loading import plan_error

    try:
        return kind.model_validate(values)
    except ValidationError as wrong:
        raise plan_error(wrong, kind) from None


def _configured(model: ModelLike) -> ModelLike:
    return config.get("model", None) if model is None else model


def _store_url(store: str | None) -> str:
    return store or config.get("store", None) or default_store()


def _subscribers(progress: Any) -> tuple[Any, ...]:
    if progress is False:
        return ()
    if callable(progress):
        return (progress,)
    from apwa_dask.observe.progress import progress_for_environment

    return (progress_for_environment(),)
