"""What a profile still says after steps: nothing about columns that are gone, little about columns that are
new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from apwa_dask.tables.profile import ColumnProfile, Profile, profile_frame

__all__ = ["seen_through"]

_KEEPS_ROWS = frozenset({"select", "assign", "map", "sort"})
_KEEPS_VALUES = frozenset(
    {"select", "map", "sort", "limit", "sample", "distinct", "filter", "where", "flat_map"}
)


def seen_through(profile: Profile, steps: Sequence[Any], schema: pa.Schema) -> Profile:
    """The profile of a source as it may be shown after `steps`.

    A column keeps its statistics only where every step surely left its name and its values alone; any other
    column of `schema` is described by its type. Rows are no longer exact once a step may drop or add some.

    Parameters
    ----------
    profile : Profile
        Of the source.
    steps : sequence of plan steps
        With ``op``, and ``n`` for limits.
    schema : pyarrow.Schema
        Columns after the steps.
    """
    untouched = all(step.op in _KEEPS_VALUES for step in steps)
    renamed = {new for step in steps if step.op == "select" for new in step.rename.values()}
    known = {column.name: column for column in profile.columns if untouched and column.name not in renamed}
    bare = {column.name: column for column in profile_frame(schema.empty_table(), rows=0).columns}
    columns: tuple[ColumnProfile, ...] = tuple(
        known.get(name, bare[name]) for name in schema.names if name in known or name in bare
    )
    rows, exact = profile.rows, profile.exact
    for step in steps:
        if step.op == "limit" and rows is not None:
            rows = min(rows, step.n)
        elif step.op not in _KEEPS_ROWS:
            exact = False
    omitted = len(schema.names) - len(columns)
    return replace(profile, rows=rows, exact=exact, columns=columns, omitted_columns=max(omitted, 0))
