"""A result in one file of the user's choice: written whole or not at all, never mixed with what was there."""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import feather

from apwa_dask.errors import ConfigError

__all__ = ["SUFFIXES", "export"]

SUFFIXES = (".parquet", ".arrow", ".feather", ".jsonl", ".csv")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_BLANKS = " \u00a0\u200b\ufeff"
_LOG = logging.getLogger(__name__)


def export(frame: pd.DataFrame, path: str, *, safe_csv: bool = True, overwrite: bool = False) -> str:
    """Write `frame` to `path` in the format its suffix names, all or nothing.

    Parameters
    ----------
    frame : pandas.DataFrame
    path : str
        Ends in one of `SUFFIXES`.
    safe_csv : bool
        Put an apostrophe before cells and column names that a spreadsheet would run as a formula (CSV only).
        How many there were is logged as a warning.
    overwrite : bool
        Replace a file of that name, in one step: readers see the old rows or the new ones. Otherwise an existing
        file is an error.

    Raises
    ------
    ConfigError
        The suffix names no known format (``CONFIG-EXPORT``), or there is something at `path`
        (``CONFIG-EXPORT-EXISTS``).
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(
            f"cannot export to {target.suffix or 'a file without suffix'}",
            fix=f"use one of {', '.join(SUFFIXES)}",
            code="CONFIG-EXPORT",
        )
    if target.is_dir() or (target.exists() and not overwrite):
        raise _exists(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        _write(frame, partial, suffix, safe_csv)
        _put(partial, target, overwrite=overwrite)
    finally:
        partial.unlink(missing_ok=True)
    return str(target)


def _put(partial: Path, target: Path, *, overwrite: bool) -> None:
    """Give the finished file its name; without `overwrite` only where the name is still free."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    if overwrite:
        os.replace(partial, target)
        return
    try:
        os.link(partial, target)
    except FileExistsError:
        raise _exists(target) from None
    except OSError:  # a file system without hard links: the check above is the best there is
        os.replace(partial, target)


def _exists(target: Path) -> ConfigError:
    kind = "a folder" if target.is_dir() else "a file"
    return ConfigError(
        f"there is {kind} at {target} already",
        why="rows of two results must never be mixed",
        fix="choose another name" if target.is_dir() else "choose another name, or pass overwrite=True",
        saved="nothing was written",
        code="CONFIG-EXPORT-EXISTS",
    )


def _write(frame: pd.DataFrame, path: Path, suffix: str, safe_csv: bool) -> None:
    named = (
        frame.index.nlevels > 1 or frame.index.name is not None or not isinstance(frame.index, pd.RangeIndex)
    )
    if suffix == ".parquet":
        readable, schema = _readable(frame, named=named)
        readable.to_parquet(path, index=named, schema=schema)
    elif suffix in (".arrow", ".feather"):
        readable, schema = _readable(frame.reset_index(drop=not named), named=False)
        table = pa.Table.from_pandas(readable, schema=schema, preserve_index=False)
        feather.write_feather(table, path)
    elif suffix == ".jsonl":
        (frame.reset_index() if named else frame).to_json(
            path, orient="records", lines=True, date_format="iso", force_ascii=False
        )
    else:
        flat = frame.reset_index() if named else frame
        # Lines end as in RFC 4180. With any other end, Python's writer leaves a cell's own carriage return unquoted,
        # and what stands behind it becomes a row of its own.
        (_spreadsheet_safe(flat) if safe_csv else flat).to_csv(path, index=False, lineterminator="\r\n")


def _readable(frame: pd.DataFrame, *, named: bool) -> tuple[pd.DataFrame, pa.Schema]:
    """Lists and structs as objects, under their own Arrow types.

    As extension columns their dtype is noted in the file by a name that ``pandas.read_parquet`` does not understand,
    and it then refuses the whole file.
    """
    schema = pa.Schema.from_pandas(frame, preserve_index=named).remove_metadata()
    nested = [
        name
        for name, dtype in frame.dtypes.items()
        if isinstance(dtype, pd.ArrowDtype) and pa.types.is_nested(dtype.pyarrow_dtype)
    ]
    readable = frame.astype(dict.fromkeys(nested, object)) if nested else frame
    return readable, schema


def _spreadsheet_safe(frame: pd.DataFrame) -> pd.DataFrame:
    """Text that begins like a formula (also after blanks) gets an apostrophe in front (OWASP CSV injection)."""
    safe, guarded = frame.copy(), 0
    for place, dtype in enumerate(frame.dtypes):
        is_text = pd.api.types.is_string_dtype(dtype) or pd.api.types.is_object_dtype(dtype)
        if is_text or isinstance(dtype, pd.CategoricalDtype):
            cells = frame.iloc[:, place].astype(object)
            guarded += sum(map(_is_formula, cells))
            safe.isetitem(place, cells.map(_guard, na_action="ignore").to_numpy())
    safe.columns = pd.Index([_guard(name) for name in safe.columns])
    names = sum(map(_is_formula, frame.columns))
    if guarded or names:
        # the numbers only: what the cells hold is nobody's business in a log
        _LOG.warning(
            "%s and %s of the CSV begin like a formula and got an apostrophe in front; safe_csv=False writes them as "
            "they are",
            f"{guarded:,} cell{'' if guarded == 1 else 's'}",
            f"{names} column name{'' if names == 1 else 's'}",
        )
    return safe


def _guard(cell: Any) -> Any:
    return f"'{cell}" if _is_formula(cell) else cell


def _is_formula(cell: Any) -> bool:
    """Lists and dicts are written by their text, so a formula in them stands after a bracket, in no cell's front."""
    return isinstance(cell, str) and (cell.startswith(_FORMULA) or cell.lstrip(_BLANKS).startswith(_FORMULA))
