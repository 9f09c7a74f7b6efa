"""Which rows a sample takes: those with the smallest hashes of their numbers, found without sorting them all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apwa_dask.execution import frame_steps
from apwa_dask.execution.frame_steps import _mixed, _nth_smallest


@settings(max_examples=40, deadline=None)
@given(total=st.integers(1, 3000), share=st.floats(0, 1), seed=st.integers(-(2**70), 2**70))
def test_the_bound_of_a_sample_is_its_nth_smallest_hash(total: int, share: float, seed: int) -> None:
    n = max(round(share * total), 1)
    hashes = _mixed(np.arange(total, dtype=np.uint64), seed)
    assert len(set(hashes.tolist())) == total
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_steps, "_ROWS_AT_ONCE", 512)
        assert _nth_smallest(total, n, seed) == sorted(hashes.tolist())[n - 1]


def test_rows_are_sampled_evenly_over_the_table() -> None:
    bound = _nth_smallest(100_000, 10_000, seed=5)
    chosen = _mixed(np.arange(100_000, dtype=np.uint64), 5) <= np.uint64(bound)
    tenths = chosen.reshape(10, -1).sum(axis=1)
    assert chosen.sum() == 10_000
    assert tenths.min() > 850  # five standard deviations of 30 below the mean of 1,000
    assert tenths.max() < 1150
