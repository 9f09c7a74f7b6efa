"""The benchmark of layouts, small: rows and calls, never seconds."""

from __future__ import annotations

import pytest

from benchmarks import layout


@pytest.mark.slow
@pytest.mark.parametrize("partitions", [1, 520])
def test_each_layout_answers_every_row_once(partitions):
    found = layout.measured("threads", 520, partitions)

    assert (found.partitions, found.rows, found.calls, found.right) == (partitions, 520, 520, 520)
