"""A plan tried on a few rows: input beside output, what each row cost and took, and what that says of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from apwa_dask.api.settings import subscribers_for
from apwa_dask.api.teaching import learn_from_preview
from apwa_dask.execution import launch as engine
from apwa_dask.execution.compile import ERROR, ROW_ID, STATUS
from apwa_dask.execution.events import Event, StepPulse
from apwa_dask.execution.explain_row import cost_of_row
from apwa_dask.execution.run import Run
from apwa_dask.execution.tables_of_run import input_partitions, input_table
from apwa_dask.optimize.forecast import Estimate
from apwa_dask.optimize.stratify import stratified
from apwa_dask.plans.steps import LLMStep
from apwa_dask.tables.dtypes import to_arrow, to_pandas
from apwa_dask.tables.profile import sample_rows

if TYPE_CHECKING:
    from apwa_dask.api.planned import PlannedQuery

__all__ = ["COST", "LATENCY", "Preview", "preview"]

COST, LATENCY = "_apwa_cost_usd", "_apwa_latency_s"
DROPPED = "dropped"
_POOL_ROWS = 5_000
"""Rows of a file or a Dask frame that a sample is drawn from."""
_POOL_PARTITIONS = 3


class Preview(pd.DataFrame):
    """Sampled rows: their columns, what the plan made of them, and four columns about that.

    A pandas frame in every way (slices of it are plain frames). ``_apwa_status`` is ``ok`` for a good row,
    ``dropped`` for one that a filter left out, else the class of the failure; ``_apwa_error`` says why.
    ``_apwa_cost_usd`` and ``_apwa_latency_s`` are of all calls about the sampled row, of every step; where it
    gave several rows, each shows the whole. They are missing where they cannot be told by the row: behind a
    reduce, a join or a sort, or for answers that were kept from before. Seconds are those in calls, without waiting
    for a turn; of more than 200 rows, a fair sample has them.

    Attributes
    ----------
    estimate : Estimate
        What the whole run will come to, now that some of it was seen.
    run : Run
        The run over the sample.
    """

    _metadata = ("estimate", "run")
    estimate: Estimate
    run: Run

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame


def preview(planned: PlannedQuery, n: int, seed: int, options: Mapping[str, Any]) -> Preview:
    """Run the plan over a stratified sample of `n` rows of its first table."""
    sample = _sampled(planned, n, seed)
    clock = _Clock()
    told = dict(options)
    subscribers = (*subscribers_for(told.pop("progress", False)), clock)
    run = sample.run(**told, progress=_all(subscribers))
    result = run.result(status=True)
    frame = Preview(_beside(sample, run, result, clock))
    frame.run = run
    learn_from_preview(planned, sample, run)
    known = {
        name: told[name]
        for name in ("model", "mode", "store", "storage_options", "max_concurrency")
        if name in told
    }
    frame.estimate = planned.estimate(**known)
    frame.attrs.update(result.attrs)
    return frame


def _all(subscribers: tuple[Callable[[Event], None], ...]) -> Callable[[Event], None]:
    def tell(event: Event) -> None:
        for each in subscribers:
            each(event)

    return tell


# -- the sample


def _sampled(planned: PlannedQuery, n: int, seed: int) -> PlannedQuery:
    alias = planned.plan.sources[0]
    source = planned.sources[alias]
    pool = _pool(source, seed)
    columns = {name for step in planned.plan.llm_steps for name in step.contract.inputs}
    at = stratified(pool, sorted(columns & set(pool.column_names)), n, seed)
    if isinstance(source, engine.PandasSource):
        rows = source.frame.iloc[at]
    elif isinstance(source, engine.FrameSource):
        rows = _with_texts_of(pool.take(pa.array(at, pa.int64())), _frame_rows(source, seed).iloc[at])
    else:
        rows = to_pandas(pool.take(pa.array(at, pa.int64())))
    return replace(planned, sources={**planned.sources, alias: engine.PandasSource(rows)}, _teaches=False)


def _pool(source: engine.Source, seed: int) -> pa.Table:
    if isinstance(source, engine.FileSource):
        return sample_rows(source, max_rows=_POOL_ROWS, seed=seed)
    frame = source.frame if isinstance(source, engine.PandasSource) else _frame_rows(source, seed)
    flat = frame.reset_index(drop=True)
    flat.columns = [str(name) for name in flat.columns]
    return to_arrow(flat, source.schema)


def _with_texts_of(taken: pa.Table, rows: pd.DataFrame) -> pd.DataFrame:
    """Text as the run will read it: an object column of a frame may hold anything."""
    objects = {
        str(name): pd.Series(taken.column(str(name)).to_pylist(), index=rows.index, dtype=object)
        for name, dtype in rows.dtypes.items()
        if pd.api.types.is_object_dtype(dtype) and pa.types.is_string(taken.schema.field(str(name)).type)
    }
    return rows.assign(**objects) if objects else rows


def _frame_rows(source: engine.FrameSource, seed: int) -> pd.DataFrame:
    """The beginnings of a few partitions, evenly spread from one that `seed` says."""
    parts = source.frame.npartitions
    few = min(parts, _POOL_PARTITIONS)
    chosen = sorted({(seed + k * parts // few) % parts for k in range(few)})
    heads: list[pd.DataFrame] = [
        source.frame.partitions[k].head(_POOL_ROWS // few, npartitions=1, compute=True) for k in chosen
    ]
    return pd.concat(heads)


# -- what came of each row


class _Clock:
    """Seconds in calls by row, over all steps, as the run tells them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepPulse):
            for row, (calls_s, _) in event.took.items():
                self.seconds[_root(row)] = self.seconds.get(_root(row), 0.0) + calls_s


def _root(row_id: str) -> str:
    """The row of the table that a row was made of; rows of a flat_map add a point and a number."""
    return row_id.partition(".")[0]


def _beside(sample: PlannedQuery, run: Run, result: pd.DataFrame, clock: _Clock) -> pd.DataFrame:
    """The sample's rows, each beside what was made of it; just the result where rows are not made of rows."""
    source = sample.sources[sample.plan.sources[0]]
    assert isinstance(source, engine.PandasSource)
    if [stage.kind for stage in run.stages] != ["rows"]:
        return result.assign(**{COST: float("nan"), LATENCY: float("nan")})
    made = [_root(row_id) for row_id in _row_ids(run)]
    facts = result.reset_index(drop=True).assign(_row=made)
    given = source.frame.reset_index(drop=True).assign(_row=[f"0:{k}" for k in range(len(source.frame))])
    kept = ["_row", *(name for name in given.columns if name not in facts.columns)]
    good = given[kept].merge(facts, on="_row", how="inner", sort=False)
    gone = given[~given["_row"].isin(set(made))]
    failed = {str(row["row_id"]): row for row in run.failures.to_dict("records")}
    whys = [failed.get(row) for row in gone["_row"]]
    gone = gone.assign(
        **{STATUS: [DROPPED if why is None else str(why["outcome"]) for why in whys]},
        **{ERROR: ["" if why is None else str(why["message"]) for why in whys]},
    )
    both = pd.concat([good, gone]) if len(gone) else good
    both["_at"] = [int(row.partition(":")[2]) for row in both["_row"]]
    both = both.sort_values("_at", kind="stable")
    both[COST] = both["_row"].map(_costs(run, list(given["_row"])))
    both[LATENCY] = both["_row"].map(clock.seconds)
    both.index = source.frame.index.take(both.pop("_at").tolist())
    last = [STATUS, ERROR, COST, LATENCY]
    return both[[name for name in both.columns if name not in ("_row", *last)] + last]


def _row_ids(run: Run) -> list[str]:
    stage = run.stages[-1].index
    parts = [input_table(run, stage, k, [ROW_ID]) for k in range(input_partitions(run, stage))]
    return [row_id for part in parts for row_id in part.column(ROW_ID).to_pylist()]


def _costs(run: Run, rows: list[str]) -> dict[str, float | None]:
    """USD by row; rows that share their prompts share what these cost."""
    steps = [step for step in run.spec.plan.steps if isinstance(step, LLMStep)]
    if any(step.contract.unit != "row" for step in steps):
        whole = run.status()["cost_usd"]
        return dict.fromkeys(rows, None if whole is None else whole / len(rows))
    return {row: cost_of_row(run, row) for row in rows}
