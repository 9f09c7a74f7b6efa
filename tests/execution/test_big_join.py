"""A join of 5,000 rows with 5,000 in a process of its own: one call a pair, every row there, memory bounded.

The same with 100,000 rows each: ``python benchmarks/joining.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.joining import measured

ROWS = 5_000
MOST_MIB = 300
"""Above the process before it reads anything. All pairs would be 25 million."""


def test_a_blocked_join_asks_about_each_pair_once_in_bounded_memory(tmp_path: Path) -> None:
    found = measured(ROWS, tmp_path, timeout_s=240)
    assert found.trouble == ""
    assert found.calls == ROWS
    assert (found.matched, found.kept) == found.expected
    assert found.peak_mib - found.start_mib < MOST_MIB
