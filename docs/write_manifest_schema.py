"""Writes docs/reference/manifest.schema.json from the manifest's own types: ``make schema``."""

from __future__ import annotations

from pathlib import Path

import orjson

from apwa_dask.execution.manifest import manifest_schema

PAGE = Path(__file__).parent / "reference" / "manifest.schema.json"

if __name__ == "__main__":
    PAGE.write_bytes(
        orjson.dumps(manifest_schema(), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n"
    )
