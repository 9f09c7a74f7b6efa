"""Minutes of a plan: from calls, latency, calls in flight and announced limits; what is unknown stays unknown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apwa_dask.optimize.duration import Pace, StepWork, minutes_of
from apwa_dask.plans.explain import Range, StepEstimate


def work(
    calls: float,
    *,
    tokens: float = 0,
    at_once: int = 10,
    endpoint: str = "m",
    latency_s: float | None = 1.0,
    requests_per_s: float | None = None,
    tokens_per_s: float | None = None,
) -> StepWork:
    known = StepEstimate(
        calls=Range.exactly(calls), input_tokens=Range.exactly(tokens), output_tokens=Range.exactly(0)
    )
    return StepWork(endpoint, known, at_once, Pace(latency_s, requests_per_s, tokens_per_s))


def expected(*steps: StepWork) -> float:
    found = minutes_of(steps)
    assert found is not None
    return found.expected


def test_calls_take_their_latency_over_the_calls_in_flight() -> None:
    assert expected(work(1200)) == pytest.approx(2.0)
    assert expected(work(1200, at_once=20)) == pytest.approx(1.0)
    assert expected(work(1)) == pytest.approx(1 / 60), "no step is shorter than one call"


def test_an_announced_limit_is_not_outrun() -> None:
    assert expected(work(1200, requests_per_s=2)) == pytest.approx(10.0)
    assert expected(work(1200, tokens=600_000, tokens_per_s=1000)) == pytest.approx(10.0)
    assert expected(work(1200, requests_per_s=1000)) == pytest.approx(2.0)


def test_steps_of_one_endpoint_share_its_slots_and_endpoints_may_work_side_by_side() -> None:
    assert expected(work(600), work(600)) == pytest.approx(2.0)
    apart = minutes_of([work(600), work(600, endpoint="n")])
    alone = minutes_of([work(600)])
    assert apart is not None
    assert alone is not None
    assert apart.low == alone.low
    assert apart.expected == pytest.approx(2.0)


def test_what_is_unknown_stays_unknown() -> None:
    assert minutes_of([work(10), work(10, latency_s=None)]) is None
    assert minutes_of([StepWork("m", StepEstimate(), 10, Pace(1.0))]) is None
    assert minutes_of([work(0, latency_s=None)]) == Range.exactly(0)
    assert minutes_of([]) == Range.exactly(0)


some = st.floats(0.01, 1e4)


@given(
    calls=st.tuples(some, some, some), latency_s=some, at_once=st.integers(1, 1000), limit=st.none() | some
)
def test_the_figures_are_in_order_and_more_calls_in_flight_take_no_longer(
    calls: tuple[float, float, float], latency_s: float, at_once: int, limit: float | None
) -> None:
    asked = StepEstimate(calls=Range(*sorted(calls)))
    pace = Pace(latency_s, limit)
    found = minutes_of([StepWork("m", asked, at_once, pace)])
    more = minutes_of([StepWork("m", asked, at_once + 1, pace)])
    assert found is not None
    assert more is not None
    assert 0 <= found.low <= found.expected <= found.high
    assert more.expected <= found.expected
