"""Shared vocabulary of the reading tests: where public data lie, and how a source is read to its end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from apwa_dask.tables import Source, Sources, read_partition, read_sources


def shared_folder() -> Path:
    """Folder of the shared public data sets; it need not exist."""
    return Path(os.environ.get("APWA_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = shared_folder()
    if not folder.is_dir():
        pytest.skip("the shared data sets are not here; set APWA_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def whole() -> Callable[..., pa.Table]:
    """Read every partition of a source, checking that each has exactly the declared schema."""

    def read(source: Source, **options: object) -> pa.Table:
        manifest = source.manifest
        tables = [
            read_partition(manifest, ordinal, storage_options=source.storage_options, **options)
            for ordinal in range(manifest.npartitions)
        ]
        assert all(table.schema.equals(tables[0].schema) for table in tables)
        if not options:
            assert tables[0].schema.equals(manifest.schema)
        table = pa.concat_tables(tables)
        assert table.num_rows == manifest.rows
        return table

    return read


@pytest.fixture
def one() -> Callable[..., Source]:
    """Read a source that must have exactly one shape."""

    def read(urlpath: object, **options: object) -> Source:
        sources: Sources = read_sources(str(urlpath), **options)
        assert len(sources) == 1, repr(sources)
        return next(iter(sources.values()))

    return read
