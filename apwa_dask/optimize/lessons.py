"""What a preview, or a run before, has taught about a plan's steps: rows, turns and tokens against the prior."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from math import sqrt
from typing import Any, Protocol

from apwa_dask.optimize.duration import Pace
from apwa_dask.optimize.ranges import spread, times
from apwa_dask.plans.explain import Range, StepEstimate
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.steps import (
    Assign,
    Chunk,
    Explode,
    Filter,
    FlatMap,
    Join,
    LLMStep,
    Map,
    Merge,
    Reduce,
    Select,
    Sort,
    Where,
)

__all__ = ["Lesson", "Tally", "counted", "root_of", "taught", "units_expected", "unknown_rows"]

_BY_THE_ROW = (Map, Filter, FlatMap, Where, Assign, Select, Chunk, Explode, Sort, Join, Merge)
"""Twice the rows of their (left) input are twice the rows behind them."""

_TURNS_WITH_TOOLS = 2
"""Calls that a unit with tools is expected to take (`apwa_dask.optimize.estimate`)."""

_LEAST_ERROR = 0.05
_VARIES = {"calls": 0.3, "input": 0.3, "output": 0.6, "rows": 1.0}
"""Usual coefficient of variation of one unit; two standard errors of its mean are the range."""


_MOST_UNITS_ELSEWHERE = 20
"""Of other data a lesson is worth no more units than this: its texts differ by more than chance."""


@dataclass(frozen=True, slots=True)
class Tally:
    """All that one step came to: the units that ended, those of them that were paid, and what they took."""

    units: int = 0
    paid: int = 0
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


class _Line(Protocol):
    """A line of a run's ledger."""

    @property
    def step(self) -> str: ...
    @property
    def units(self) -> int: ...
    @property
    def reused(self) -> int: ...
    @property
    def calls(self) -> int: ...
    @property
    def input_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is known of one step; ``*_ratio`` is against the prior of the same rows.

    Attributes
    ----------
    paid : int
        Units it was learned from.
    rows_of_one : float or None
        Rows that reach the step for each row of its table; None where the two are not in proportion.
    rows_seen : int
        Rows of the table that this is known from.
    calls_ratio, input_ratio, output_ratio : float or None
        Calls of a unit, and tokens of a call, over what was thought; None where no unit was paid.
    """

    paid: int
    rows_of_one: float | None
    rows_seen: int
    calls_ratio: float | None = None
    input_ratio: float | None = None
    output_ratio: float | None = None
    pace: Pace = field(default_factory=Pace)
    """How fast its calls were answered, and under which limits."""

    def rows(self, rows: Range) -> Range | None:
        """Rows that reach the step, where `rows` are in its table; None where that was not learned."""
        if self.rows_of_one is None or not self.rows_seen:
            return None
        if (
            self.rows_of_one == 0
        ):  # none was seen among so many: with 95 % they are fewer than three in that number
            return times(rows, Range(0, 1 / self.rows_seen, 3 / self.rows_seen))
        error = 0.0 if self.rows_of_one == 1 else 2 * _VARIES["rows"] / sqrt(self.rows_seen)
        return times(rows, _around(self.rows_of_one, error))

    def applied(self, prior: StepEstimate) -> StepEstimate:
        """The estimate of a step, its figures corrected and narrowed; cost is left to who knows the price."""
        if not self.paid or prior.calls is None or prior.rows is None:
            return prior
        if prior.input_tokens is None or prior.output_tokens is None:
            return prior
        calls = self.calls_ratio or 1.0
        return StepEstimate(
            rows=prior.rows,
            calls=self._narrowed(prior.calls, prior.rows, calls, "calls"),
            input_tokens=self._narrowed(
                prior.input_tokens, prior.rows, calls * (self.input_ratio or 1.0), "input"
            ),
            output_tokens=self._narrowed(
                prior.output_tokens, prior.rows, calls * (self.output_ratio or 1.0), "output"
            ),
        )

    def _narrowed(self, figure: Range, rows: Range, ratio: float, what: str) -> Range:
        known = _around(figure.expected * ratio, 2 * _VARIES[what] / sqrt(self.paid) + _LEAST_ERROR)
        if rows.expected > 0:
            known = times(known, Range(rows.low / rows.expected, 1, rows.high / rows.expected))
        if figure.low <= known.expected <= figure.high:  # what was sure before is sure now
            return Range(max(known.low, figure.low), known.expected, min(known.high, figure.high))
        return known

    def without_rows(self) -> Lesson:
        """What holds for other data too, if less surely: the turns of a unit, the tokens and seconds of a call."""
        return replace(self, paid=min(self.paid, _MOST_UNITS_ELSEWHERE), rows_of_one=None, rows_seen=0)

    def at_pace(self, pace: Pace) -> Lesson:
        """The lesson with what was seen of the endpoint."""
        return replace(self, pace=pace)

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Lesson:
        """Inverse of `to_dict`."""
        return cls(**{**facts, "pace": Pace(**facts.get("pace", {}))})

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def _around(expected: float, error: float) -> Range:
    return spread(expected, 1 / (1 + error), 1 + error)


def root_of(plan: Plan, step_id: str) -> str | None:
    """The table whose rows the rows before a step are in proportion to; None where they are not."""
    steps = {step.id: step for step in plan.steps}
    here: str = steps[step_id].inputs_from[0]
    while here in steps:
        if not isinstance(steps[here], _BY_THE_ROW):
            return None
        here = steps[here].inputs_from[0]
    return here


def units_expected(step: LLMStep, known: StepEstimate) -> float | None:
    """Units of a step that are paid for, by its estimate: what its outcomes are counted by."""
    if known.calls is None or known.rows is None:
        return None
    if isinstance(step, Reduce):
        return known.calls.expected
    if step.contract.unit != "row":
        return known.rows.expected
    return known.calls.expected / (_TURNS_WITH_TOOLS if step.contract.tools else 1)


def tallies(lines: Iterable[_Line]) -> dict[str, Tally]:
    """The lines of a ledger by step."""
    found: dict[str, Tally] = {}
    for line in lines:
        one = Tally(line.units, line.units - line.reused, line.calls, line.input_tokens, line.output_tokens)
        found[line.step] = found.get(line.step, Tally()) + one
    return found


def counted(plan: Plan, lines: Iterable[_Line], rows: Mapping[str, int]) -> dict[str, Lesson]:
    """How many rows reached each model step, of how many rows of its table: the first half of the lessons.

    Parameters
    ----------
    plan : Plan
    lines : iterable
        The ledger of a run over sampled tables.
    rows : mapping of str to int
        Rows of the sampled tables, by alias.
    """
    found = {}
    seen = tallies(lines)
    for step in plan.llm_steps:
        root = root_of(plan, step.id)
        tally = seen.get(step.id, Tally())
        of = rows.get(root, 0) if root is not None else 0
        share = tally.units / of if of and not isinstance(step, Reduce) else None
        if step.inputs_from[0] == root and not isinstance(step, Join):
            share = (
                1.0 if of else None
            )  # rows that a bad input keeps from the model are rows of the step all the same
        found[step.id] = Lesson(0, share, of)
    return found


def unknown_rows(plan: Plan) -> dict[str, Lesson]:
    """`counted` of a run that has not seen all rows of its tables."""
    return {step.id: Lesson(0, None, 0) for step in plan.llm_steps}


def taught(
    plan: Plan,
    lines: Iterable[_Line],
    counts: Mapping[str, Lesson],
    thought: Mapping[str, StepEstimate],
) -> dict[str, Lesson]:
    """Lessons of a run, by step.

    Parameters
    ----------
    plan : Plan
    lines : iterable
        The run's ledger.
    counts : mapping of str to Lesson
        As `counted`.
    thought : mapping of str to StepEstimate
        The prior for the very rows that the run was over, with `counts` known.
    """
    seen = tallies(lines)
    found = {}
    for step in plan.llm_steps:
        lesson, tally = counts[step.id], seen.get(step.id, Tally())
        prior = thought.get(step.id, StepEstimate())
        units = units_expected(step, prior)
        found[step.id] = lesson
        if not tally.paid or not tally.calls or not units or not prior.calls or not prior.calls.expected:
            continue
        calls = prior.calls.expected
        found[step.id] = Lesson(
            tally.paid,
            lesson.rows_of_one,
            lesson.rows_seen,
            calls_ratio=(tally.calls / tally.paid) / (calls / units),
            input_ratio=_ratio(tally.input_tokens / tally.calls, prior.input_tokens, calls),
            output_ratio=_ratio(tally.output_tokens / tally.calls, prior.output_tokens, calls),
        )
    return found


def _ratio(each: float, thought: Range | None, calls: float) -> float | None:
    return None if thought is None or not thought.expected else each / (thought.expected / calls)
