"""A leaked key is found wherever it hides, and only where it is."""

from __future__ import annotations

import base64
import gzip
import os
import pickle
import zipfile
from pathlib import Path

import pytest

from apwa_dask.testing import grep_canary
from apwa_dask.testing.fixtures import CANARY_VARIABLES


def test_the_canary_is_in_the_environment_and_new_in_each_test(canary_key) -> None:
    assert canary_key.startswith("sk-CANARY-")
    assert [os.environ[name] for name in CANARY_VARIABLES] == [canary_key, canary_key]


@pytest.mark.parametrize("prefix", ["", "a", "ab", "abc"])
def test_it_is_found_in_base64_at_any_offset(canary_key, prefix) -> None:
    assert grep_canary(base64.b64encode(f"{prefix}{canary_key}:tail".encode()), canary_key) == ["bytes[0]"]


def test_it_is_found_in_files_pickles_and_archives(canary_key, tmp_path: Path) -> None:
    (tmp_path / "clean.txt").write_text("sk-CANARY-other")
    (tmp_path / "plain.log").write_text(f"authorization: Bearer {canary_key}")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "graph.pickle").write_bytes(pickle.dumps({"key": canary_key}))
    (tmp_path / "old.gz").write_bytes(gzip.compress(canary_key.encode()))
    with zipfile.ZipFile(tmp_path / "report.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.json", canary_key)
        archive.writestr("clean.json", "nothing")
    found = [name.removeprefix(f"{tmp_path}/") for name in grep_canary(tmp_path, canary_key)]
    assert found == ["deep/graph.pickle", "old.gz (gunzipped)", "plain.log", "report.zip!inner.json"]


def test_it_is_found_in_other_spellings_and_not_in_clean_places(canary_key) -> None:
    places = [canary_key, canary_key.encode("utf-16-le"), "clean", b"\x1f\x8bnot gzip", canary_key[:-1]]
    assert grep_canary(places, canary_key) == ["bytes[0]", "bytes[1]"]
