"""Capabilities that come with this package: pure, without I/O, small in what they give back.

They are found by name like a user's. Each has a version, which is hashed with every request that offers the
tool: raise it when the answers change.
"""

from __future__ import annotations

from apwa_dask.agents.builtin.dates import date_difference, shift_date
from apwa_dask.agents.builtin.lookups import lookup_rows
from apwa_dask.agents.builtin.numbers import calculate
from apwa_dask.agents.builtin.sql import query_row
from apwa_dask.agents.builtin.texts import find_text
from apwa_dask.agents.capabilities import Capability, described

__all__ = ["BUILTIN"]

BUILTIN: dict[str, Capability] = {
    tool.name: tool
    for tool in (
        described(calculate, version="1", max_result_chars=400),
        described(shift_date, version="1", max_result_chars=200),
        described(date_difference, version="1", max_result_chars=200),
        described(find_text, version="1", max_result_chars=6_000),
        described(lookup_rows, version="1", max_result_chars=6_000),
        described(query_row, version="1", max_result_chars=6_000),
    )
}
"""By name."""
