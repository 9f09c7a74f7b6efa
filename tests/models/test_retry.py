"""The one layer of retries: counts, waits and bounds."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from apwa_dask.models.outcomes import Retry, Verdict
from apwa_dask.models.retry import RetryPolicy, Tries
from apwa_dask.models.types import OutcomeClass


def failed(retry: Retry, wait_s: float | None = None) -> Verdict:
    return Verdict(OutcomeClass.TRANSIENT, retry, wait_s=wait_s)


def attempts(retry: Retry, policy: RetryPolicy, limit: int = 50) -> int:
    tries = Tries(policy, 0.0, random.Random(0))
    count = 1
    while count < limit and tries.wait_s(failed(retry), 0.0) is not None:
        count += 1
    return count


def test_each_kind_of_failure_has_its_own_bound() -> None:
    policy = RetryPolicy()
    assert attempts(Retry.NONE, policy) == 1
    assert attempts(Retry.TRANSIENT, policy) == 6
    assert attempts(Retry.DEADLINE, policy) == 3
    assert attempts(Retry.REASK, policy) == 3
    assert attempts(Retry.THROTTLED, policy) == 50, "waiting for a rate consumes no attempt"


def test_kinds_count_together() -> None:
    tries = Tries(RetryPolicy(), 0.0, random.Random(0))
    kinds = [Retry.TRANSIENT, Retry.DEADLINE, Retry.TRANSIENT, Retry.DEADLINE, Retry.TRANSIENT]
    assert [tries.wait_s(failed(kind), 0.0) is not None for kind in kinds] == [True] * 5
    assert tries.wait_s(failed(Retry.TRANSIENT), 0.0) is None


@given(
    seed=st.integers(), policy=st.builds(RetryPolicy, base_s=st.floats(0.01, 10), cap_s=st.floats(0.01, 100))
)
def test_waits_are_jittered_over_the_whole_span_and_capped(seed: int, policy: RetryPolicy) -> None:
    tries = Tries(policy, 0.0, random.Random(seed))
    for n in range(5):
        wait = tries.wait_s(failed(Retry.TRANSIENT), 0.0)
        assert wait is not None
        assert 0 <= wait <= min(policy.cap_s, policy.base_s * 2**n)


@given(seed=st.integers(), stated=st.floats(0, 3000))
def test_a_stated_wait_is_never_cut_short(seed: int, stated: float) -> None:
    wait = Tries(RetryPolicy(), 0.0, random.Random(seed)).wait_s(failed(Retry.TRANSIENT, stated), 0.0)
    assert wait is not None
    assert stated <= wait <= max(60.0, stated + 1.0)


def test_nothing_is_tried_after_the_deadline_of_the_call() -> None:
    policy = RetryPolicy(call_deadline_s=100.0)
    tries = Tries(policy, 0.0, random.Random(0))
    assert tries.wait_s(failed(Retry.THROTTLED), 99.0) == 0.0
    assert tries.wait_s(failed(Retry.THROTTLED), 100.0) is None
    assert tries.wait_s(failed(Retry.TRANSIENT, 50.0), 60.0) is None, "the wait itself would pass it"


def test_an_outage_consumes_no_attempt_for_so_long_and_then_attempts_count_again() -> None:
    policy = RetryPolicy(outage_s=100.0)
    tries = Tries(policy, 0.0, random.Random(0))
    for second in range(100):
        assert tries.wait_s(failed(Retry.TRANSIENT), float(second), outage=True) is not None
    left = [
        tries.wait_s(failed(Retry.TRANSIENT), 100.0, outage=True) is not None for _ in range(policy.attempts)
    ]
    assert left == [True] * (policy.attempts - 1) + [False]
