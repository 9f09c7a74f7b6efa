"""The free steps that a join or a rank is made of, as lazy frames."""

from __future__ import annotations

from collections.abc import Sequence

import dask.dataframe as dd
import pyarrow as pa

from apwa_dask.execution.compile import INDEX_PREFIX
from apwa_dask.execution.join_pairs import pairs_frame
from apwa_dask.execution.join_rows import joined_frame
from apwa_dask.execution.plain_strings import plain_strings
from apwa_dask.execution.rank_rows import pool_frame, ranked_frame
from apwa_dask.execution.resolve_rows import clustered_frame
from apwa_dask.plans.lowering import Clustered, Joined, Pairs, Pool, Ranked
from apwa_dask.plans.steps import LoweredStep

__all__ = ["apply_lowered"]


def apply_lowered(
    step: LoweredStep, frames: Sequence[dd.DataFrame], schemas: Sequence[pa.Schema], schema: pa.Schema
) -> dd.DataFrame:
    """The lazy frame of a step that the engine made.

    Parameters
    ----------
    step : Pairs, Joined, Pool or Ranked
    frames : sequence of dask.dataframe.DataFrame
        In the order of ``step.inputs_from``; index columns only where `schema` has them.
    schemas : sequence of pyarrow.Schema
        Declared physical schemas of these tables.
    schema : pyarrow.Schema
        Declared schema of the result.
    """
    schemas = [_without_index(of, set(schema.names)) for of in schemas]
    with plain_strings():
        if isinstance(step, Pairs):
            return pairs_frame(step, frames[0], frames[1], schemas, schema)
        if isinstance(step, Pool):
            return pool_frame(step, frames[0], schema)
        if isinstance(step, Clustered):
            return clustered_frame(step, frames[0], frames[1], schemas, schema)
        if isinstance(step, Ranked):
            return ranked_frame(step, frames[0], frames[1], schemas, schema)
        assert isinstance(step, Joined)
        return joined_frame(step, frames, schemas, schema)


def _without_index(schema: pa.Schema, kept: set[str]) -> pa.Schema:
    return pa.schema([f for f in schema if not f.name.startswith(INDEX_PREFIX) or f.name in kept])
