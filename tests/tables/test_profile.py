"""Profiles: bounded, deterministic, and their reprs only format."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apwa_dask.tables import estimate_tokens, profile_frame, profile_source, read_sources
from apwa_dask.tables.profile import MAX_PROFILE_BYTES


def _table(rows: int) -> pa.Table:
    return pa.table(
        {
            "id": np.arange(rows),
            "text": pa.array(["a review of some length, all alike"] * rows),
            "stars": np.arange(rows) % 5,
        }
    )


def test_a_profile_of_a_million_rows_is_as_small_as_one_of_a_thousand(tmp_path) -> None:
    sizes, profiles = [], []
    for rows in (1_000, 1_000_000):
        pq.write_table(_table(rows), tmp_path / f"{rows}.parquet", row_group_size=100_000)
        source = read_sources(str(tmp_path / f"{rows}.parquet"))[f"t_{rows}"]
        profile = profile_source(source, max_rows=500)
        profiles.append(profile)
        sizes.append(len(profile.to_json()))
    assert profiles[1].rows == 1_000_000
    assert profiles[1].exact
    assert profiles[1].sampled_rows <= 500
    assert abs(sizes[0] - sizes[1]) < 60  # the digits of the counts, and of the numbers sampled


def test_a_profile_never_passes_its_bound(tmp_path) -> None:
    wide = pa.table({f"column with a long name {n}": ["some text " * 50] for n in range(3000)})
    profile = profile_frame(wide)
    assert len(profile.to_json()) <= MAX_PROFILE_BYTES
    assert len(profile.columns) + profile.omitted_columns == 3000
    assert "more columns" in repr(profile)


def test_a_profile_says_what_the_manager_needs() -> None:
    frame = pd.DataFrame(
        {
            "text": ["good", "bad", None, "good"],
            "n": [1, 2, 3, 4],
            "x": [0.5, np.nan, np.inf, -1.0],
            "day": pd.to_datetime(["2024-01-01", "2024-01-05", None, "2024-01-03"]),
            "flag": [True, False, True, True],
        }
    )
    profile = profile_frame(frame, name="reviews", rows=4, npartitions=3)
    text, number, real, day, flag = profile.columns
    assert (profile.name, profile.rows, profile.exact, profile.npartitions) == ("reviews", 4, True, 3)
    assert (text.type, text.null_share, text.distinct, text.samples) == ("string", 0.25, 2, ("good", "bad"))
    assert (number.type, number.low, number.high) == ("integer", 1, 4)
    assert (real.low, real.high) == (-1.0, 0.5)
    assert (day.type, str(day.low)[:10], str(day.high)[:10]) == ("timestamp", "2024-01-01", "2024-01-05")
    assert flag.type == "boolean"
    assert json.loads(profile.to_json()) == json.loads(json.dumps(profile.to_dict()))


def test_samples_can_be_turned_off() -> None:
    profile = profile_frame(pa.table({"text": ["SECRET"]}), samples=0)
    assert b"SECRET" not in profile.to_json()
    assert "SECRET" not in repr(profile)


def test_long_samples_are_truncated_and_few_values_are_shown_by_frequency() -> None:
    profile = profile_frame(pa.table({"long": ["x" * 500] * 3, "label": ["b", "a", "a"]}), samples=2)
    assert len(profile.columns[0].samples[0]) == 80
    assert profile.columns[1].samples == ("a", "b")


def test_a_sampled_profile_scales_its_estimates() -> None:
    ids = profile_frame(pa.table({"id": list(range(100))}), rows=10_000, exact=False).columns[0]
    labels = profile_frame(pa.table({"label": ["a", "b"] * 50}), rows=10_000, exact=False).columns[0]
    assert ids.distinct == 10_000
    assert labels.distinct == 2


def test_rows_of_one_partition_of_several_are_an_estimate() -> None:
    profile = profile_frame(pa.table({"id": list(range(100))}), npartitions=7)
    assert (profile.rows, profile.exact) == (700, False)
    assert "about 700 rows" in repr(profile)


def test_the_same_seed_gives_the_same_profile(tmp_path) -> None:
    pq.write_table(_table(20_000), tmp_path / "a.parquet", row_group_size=1000)
    source = read_sources(str(tmp_path / "a.parquet"), partition_rows=1000)["a"]
    assert profile_source(source, max_rows=300) == profile_source(source, max_rows=300)
    assert profile_source(source, max_rows=300) != profile_source(source, max_rows=300, seed=1)


def test_mixed_and_nested_frame_columns_are_described() -> None:
    frame = pd.DataFrame({"mixed": [1, "x", None], "nested": [{"a": 1}, {"a": 2}, None]})
    mixed, nested = profile_frame(frame).columns
    assert mixed.type == "string"
    assert (nested.type, nested.samples) == ("struct", ('{"a":1}', '{"a":2}'))


def test_empty_tables_have_profiles() -> None:
    profile = profile_frame(pa.schema([("a", pa.string()), ("b", pa.int64())]).empty_table())
    assert profile.rows == 0
    assert [column.null_share for column in profile.columns] == [None, None]
    assert "0 rows" in repr(profile)


def test_html_is_escaped_and_has_no_script() -> None:
    profile = profile_frame(pa.table({"<script>alert(1)</script>": ["<img src=x onerror=y>"]}), name="<b>")
    html = profile._repr_html_()
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html
    assert "color" not in html


def test_reprs_of_sources_read_nothing(tmp_path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,text\n1,x\n")
    sources = read_sources(str(path))
    profile = profile_source(sources["a"])
    path.unlink()
    for shown in (sources, sources["a"], sources["a"].manifest, sources.report, profile):
        assert len(repr(shown)) < 2000
    assert "1 row," in profile._repr_html_()


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("", 0, 0),
        ("a", 1, 1),
        ("word " * 100, 100, 150),
        ("日本語" * 100, 200, 400),
        ("привет" * 100, 200, 500),
    ],
)
def test_tokens_are_estimated_within_reason(text, low, high) -> None:
    assert low <= estimate_tokens(text) <= high


def test_lone_surrogates_do_not_break_the_estimate() -> None:
    assert estimate_tokens("\ud800") >= 1
