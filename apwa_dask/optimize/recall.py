"""How many matches a join's block lets through, measured on a sample of left rows: plans and figures, no calls."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from apwa_dask.errors import PlanError
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.steps import Join, Sample

__all__ = ["BlockRecall", "recall_plans", "wilson"]

_Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class BlockRecall:
    """Share of the matching pairs that a block has among its candidates, with a 95 % interval.

    Parameters
    ----------
    matches : int
        Pairs that match, among all pairs of the sampled left rows with the whole right table.
    found : int
        Those of them that are candidates of the block.
    """

    matches: int
    found: int

    @property
    def recall(self) -> float | None:
        """None where the sample holds no match: it says nothing then."""
        return self.found / self.matches if self.matches else None

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval, which takes the pairs for independent; a left row with many matches makes it narrow."""
        return wilson(self.found, self.matches)

    def __str__(self) -> str:
        if self.recall is None:
            return "block recall unknown: no pair of the sample matches"
        low, high = self.interval
        return f"block recall {self.recall:.3f} ({low:.3f} to {high:.3f}, 95 %): {self.found} of {self.matches} pairs"


def wilson(hits: int, trials: int, z: float = _Z95) -> tuple[float, float]:
    """Score interval of a share (Wilson 1927); all of 0 to 1 without trials."""
    if trials == 0:
        return 0.0, 1.0
    share = hits / trials
    middle = share + z * z / (2 * trials)
    margin = z * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (middle - margin) / scale), min(1.0, (middle + margin) / scale)


def recall_plans(plan: Plan, step_id: str, rows: int, seed: int, max_pairs: int) -> tuple[Plan, Plan]:
    """The join on a sample of its left rows, with all pairs and with its block.

    The second asks about no pair that the first has not asked about.

    Raises
    ------
    PlanError
        The step is no join, or has no block to measure.
    """
    step = plan.step(step_id)
    if not isinstance(step, Join) or not step.is_blocked:
        raise PlanError(
            f"step {step_id!r} has no block to measure",
            fix="name a join with keys, a condition or similar texts",
            code="PLAN-SHAPE",
        )
    sample = Sample(id=f"{step.id[:56]}_sample", input=step.input, n=rows, seed=seed)
    before = plan.steps[: plan.steps.index(step)]
    blocked = step.model_copy(update={"input": sample.id, "how": "inner"})
    free = {"left_on": (), "right_on": (), "similar_left": (), "similar_right": (), "embed": None}
    caps = {"condition": "TRUE", "max_pairs_per_row": max_pairs, "max_pairs": max_pairs}
    everything = blocked.model_copy(update={**free, **caps})
    whole, narrow = (
        plan.model_copy(update={"steps": (*before, sample, each), "output": None})
        for each in (everything, blocked)
    )
    return whole, narrow
