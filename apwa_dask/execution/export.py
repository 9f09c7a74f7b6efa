"""A result in one file of the user's choice."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from apwa_dask.errors import ConfigError

__all__ = ["SUFFIXES", "export"]

SUFFIXES = (".parquet", ".arrow", ".feather", ".jsonl", ".csv")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")


def export(frame: pd.DataFrame, path: str, *, safe_csv: bool = True) -> str:
    """Write `frame` to `path` in the format its suffix names, all or nothing.

    Parameters
    ----------
    frame : pandas.DataFrame
    path : str
        Ends in one of `SUFFIXES`.
    safe_csv : bool
        Put an apostrophe before cells that a spreadsheet would run as a formula (CSV only).

    Raises
    ------
    ConfigError
        The suffix names no known format.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(
            f"cannot export to {target.suffix or 'a file without suffix'}",
            fix=f"use one of {', '.join(SUFFIXES)}",
            code="CONFIG-EXPORT",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        _write(frame, partial, suffix, safe_csv)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return str(target)


def _write(frame: pd.DataFrame, path: Path, suffix: str, safe_csv: bool) -> None:
    named = (
        frame.index.nlevels > 1 or frame.index.name is not None or not isinstance(frame.index, pd.RangeIndex)
    )
    if suffix == ".parquet":
        frame.to_parquet(path, index=named)
    elif suffix in (".arrow", ".feather"):
        (frame.reset_index() if named else frame.reset_index(drop=True)).to_feather(path)
    elif suffix == ".jsonl":
        (frame.reset_index() if named else frame).to_json(
            path, orient="records", lines=True, date_format="iso"
        )
    else:
        (_spreadsheet_safe(frame) if safe_csv else frame).to_csv(path, index=named)


def _spreadsheet_safe(frame: pd.DataFrame) -> pd.DataFrame:
    """Text cells that begin like a formula (also after blanks) get an apostrophe in front (OWASP CSV
    injection).
    """
    safe = frame.copy()
    for name in safe.columns:
        if pd.api.types.is_string_dtype(safe[name]) or safe[name].dtype == object:
            safe[name] = safe[name].map(_guard, na_action="ignore")
    return safe


def _guard(cell: object) -> object:
    risky = isinstance(cell, str) and (cell.startswith(_FORMULA) or cell.lstrip(" ").startswith(_FORMULA))
    return f"'{cell}" if risky else cell
