"""U25: what is exported is read back as it was: values, missing ones, order and types."""

from __future__ import annotations

import datetime as dt
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import apwa_dask as apwa
from apwa_dask.execution.export import SUFFIXES, export

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=12)
FORMULA = st.sampled_from(
    ["=1+1", "+49 30", "-2", "@cmd", "\t=x", "'quoted", "with, comma", 'a "quote"', "a\r\nb"]
)
CELLS = {
    "text": st.none() | TEXT | FORMULA,
    "count": st.none() | st.integers(-(2**53), 2**53),
    "share": st.none() | st.floats(-1e9, 1e9, allow_nan=False).map(lambda x: round(x, 6)),
    "is_ok": st.none() | st.booleans(),
    "day": st.none() | st.dates(dt.date(1900, 1, 1), dt.date(2200, 1, 1)),
    "at": st.none() | st.datetimes(pd.Timestamp("1900-01-01"), pd.Timestamp("2200-01-01")),
    "tags": st.none() | st.lists(TEXT, max_size=3),
}  # fmt: skip
TYPES = {
    "text": "string[pyarrow]", "count": "int64[pyarrow]", "share": "float64[pyarrow]", "is_ok": "bool[pyarrow]",
    "day": "date32[pyarrow]", "at": "timestamp[us][pyarrow]",
}  # fmt: skip
ROWS = st.lists(st.fixed_dictionaries(CELLS), min_size=1, max_size=12)


def frame_of(rows: list[dict[str, object]]) -> pd.DataFrame:
    import pyarrow as pa

    kinds = {**TYPES, "tags": pd.ArrowDtype(pa.list_(pa.string()))}
    return pd.DataFrame({name: pd.array([row[name] for row in rows], dtype=kinds[name]) for name in CELLS})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(tmp_path_factory.mktemp("store"))


def plain(value: object) -> object:
    """A cell as a plain Python value; None where it is missing."""
    if isinstance(value, (list, np.ndarray)):
        return [plain(item) for item in value]
    return None if pd.isna(value) else value


def exported(frame: pd.DataFrame, folder: str, suffix: str, **options: bool) -> tuple[pd.DataFrame, Path]:
    path = Path(tempfile.mkdtemp(dir=folder)) / f"out{suffix}"
    return frame, Path(export(frame, str(path), **options))


def test_u25_a_run_exports_its_result_in_every_format(store):
    frame = frame_of(
        [dict.fromkeys(CELLS), {**dict.fromkeys(CELLS), "text": "=1+1", "count": 2, "tags": ["a"]}]
    )
    run = apwa.from_pandas(frame, npartitions=2).where("TRUE").run(store=store, progress=False)
    for suffix in SUFFIXES:
        path = Path(run.export(f"{store}/all{suffix}"))
        assert path.stat().st_size > 0
    assert pd.read_parquet(f"{store}/all.parquet")["count"].dropna().tolist() == [2]


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(ROWS)
@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_u25_columnar_files_keep_values_types_and_order(store, suffix, rows):
    result, path = exported(frame_of(rows), store, suffix)
    read = pd.read_parquet if suffix == ".parquet" else pd.read_feather
    back = read(path, dtype_backend="pyarrow")
    assert list(back.columns)[-len(CELLS) :] == list(CELLS)
    for name in CELLS:
        assert [plain(cell) for cell in back[name]] == [plain(cell) for cell in result[name]]
        expected = (
            frame_of(rows)[name].dtype.pyarrow_dtype if name != "text" else back[name].dtype.pyarrow_dtype
        )
        assert back[name].dtype.pyarrow_dtype == expected


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(ROWS)
def test_u25_lines_of_json_keep_values_and_order(store, rows):
    import orjson

    result, path = exported(frame_of(rows), store, ".jsonl")
    lines = [orjson.loads(line) for line in path.read_bytes().split(b"\n") if line]
    assert len(lines) == len(result)
    for name in ("text", "count", "is_ok", "tags"):
        assert [line[name] for line in lines] == [plain(cell) for cell in result[name]]
    shares = [(line["share"], plain(cell)) for line, cell in zip(lines, result["share"], strict=True)]
    assert all(a == b or abs(a - b) <= 1e-6 for a, b in shares)
    days = [line["day"] and str(line["day"])[:10] for line in lines]
    assert days == [None if plain(cell) is None else str(cell)[:10] for cell in result["day"]]


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(ROWS)
def test_u25_csv_is_read_back_and_no_cell_is_a_formula(store, rows):
    result, path = exported(frame_of(rows), store, ".csv")
    back = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""], lineterminator=None)
    assert len(back) == len(result)
    for cell, original in zip(back["text"], result["text"], strict=True):
        if plain(original) in (None, ""):
            continue
        assert not str(cell).lstrip("\ufeff\u00a0\u200b ").startswith(("=", "+", "-", "@"))
        assert str(cell).removeprefix("'").replace("\r\n", "\n") in (
            str(original).replace("\r\n", "\n"),
            str(original).removeprefix("'").replace("\r\n", "\n"),
        )
    counts = [None if pd.isna(cell) else int(cell) for cell in back["count"]]
    assert counts == [plain(cell) for cell in result["count"]]
    raw, unguarded = exported(frame_of(rows), store, ".csv", safe_csv=False)
    again = pd.read_csv(unguarded, dtype=str, keep_default_na=False)
    expected = [(plain(cell) or "").replace("\r\n", "\n") for cell in raw["text"]]
    assert [cell.replace("\r\n", "\n") for cell in again["text"]] == expected
