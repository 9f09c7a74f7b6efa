"""Tables that a plan lends to the tools of a step: read whole, once a process, and bounded.

Lent are sources only: they are there before the first row, and their content is no other step's doing. What a
tool found in them is part of the prompt that follows, so a changed table changes that request's fingerprint.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import pyarrow as pa

from apwa_dask.errors import PlanError, RunError
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.steps import LLMStep
from apwa_dask.tables.reading import read_partition

if TYPE_CHECKING:
    from apwa_dask.execution.runtime import StageContext

__all__ = ["MOST_BYTES", "MOST_ROWS", "check_lent", "lent_tables"]

MOST_ROWS = 1_000_000
MOST_BYTES = 256 * 2**20
"""Of one lent table in memory, for each process."""


def check_lent(plan: Plan, frames: Collection[str]) -> None:
    """Refuse to lend what no worker could read whole: the callers' own Dask frames.

    Raises
    ------
    PlanError
    """
    for step in plan.llm_steps:
        for alias in step.contract.tables:
            if alias in frames:
                raise PlanError(
                    f"the table {alias!r} cannot be lent to tools: it is a Dask frame",
                    where=f"step {step.id}, tables",
                    why="its partitions are made by a graph, and a tool may ask for any row at any time",
                    fix="save it to files and read those, or give a pandas frame",
                    code="PLAN-TOOL-TABLES",
                )


def lent_tables(context: StageContext, step: LLMStep) -> dict[str, pa.Table]:
    """The tables that this step's contract names, without the engine's own columns.

    Raises
    ------
    RunError
        A table is too large to be held by each process.
    """
    return {alias: _read(context, alias) for alias in step.contract.tables}


def _read(context: StageContext, alias: str) -> pa.Table:
    source = context.spec.sources[alias]
    schema = source.schema.remove_metadata()
    manifest, options = context.manifest(alias), context.storage_options(alias)
    if source.rows is not None and source.rows > MOST_ROWS:
        raise _too_large(alias, f"{source.rows:,} rows")
    pieces: list[pa.Table] = []
    size = 0
    for ordinal in range(source.npartitions):
        table = read_partition(manifest, ordinal, storage_options=options)
        pieces.append(pa.table([table.column(f.name).cast(f.type) for f in schema], schema=schema))
        size += pieces[-1].nbytes
        if size > MOST_BYTES:
            raise _too_large(alias, f"more than {MOST_BYTES / 2**20:,.0f} MiB")
    return pa.concat_tables(pieces) if pieces else schema.empty_table()


def _too_large(alias: str, size: str) -> RunError:
    return RunError(
        f"the table {alias!r} is too large to be lent to tools: {size}",
        why=f"each process holds it; at most {MOST_ROWS:,} rows and {MOST_BYTES / 2**20:,.0f} MiB",
        fix="lend only the columns and rows that are looked up, or join it with merge",
        code="RUN-LENT",
    )
