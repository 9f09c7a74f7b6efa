"""Making tables: from files, from pandas, from Dask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dask.dataframe as dd
import pandas as pd

from apwa_dask.api.table import Table, TableSet
from apwa_dask.errors import ConfigError, PlanError, candidates
from apwa_dask.execution import launch as engine
from apwa_dask.tables.sources import read_sources

__all__ = ["from_dask", "from_pandas", "read"]


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
        images, WAV and MP3 recordings, and any of them compressed.
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
        report = found.report.with_notes(source.report)
        table = Table({name: engine.FileSource(source.manifest, storage_options)}, (), name, report)
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
    """A table over a pandas frame; index, order and dtypes come back as they were.

    Parameters
    ----------
    frame : pandas.DataFrame
    npartitions : int
        At most: as with `dask.dataframe.from_pandas` there may be fewer. Beyond 500, partitions of less than 64
        rows are joined, because a task and its files cost more than such rows do. Where an agent answers for
        partitions (``unit="partition"``), there are as many as asked for.
    name : str
        Of the table in plans.
    """
    table = Table({name: engine.PandasSource(_checked(frame, frame), npartitions)}, (), name)
    table.schema  # noqa: B018 - a column that no table can hold is refused here
    return table


def from_dask(frame: dd.DataFrame, *, name: str = "table") -> Table:
    """A table over a Dask frame; its partitions and its graph stay as they are.

    Each partition is a task with a few files of its own, some milliseconds: give thousands of partitions of a few
    rows through ``frame.repartition(npartitions=...)`` first.
    """
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
