"""How a draft ends without a plan: the data cannot answer, or no draft was valid."""

from __future__ import annotations

from apwa_dask.errors import PlanError, RefusalError
from apwa_dask.manager.briefing import Tables
from apwa_dask.plans.infer import visible

__all__ = ["MOST_PROBLEM_CHARACTERS", "refused", "unmended"]

MOST_PROBLEM_CHARACTERS = 4_000
_MOST_REASON_CHARACTERS = 500
_NOTHING_SPENT = "nothing was read beyond the profile, and no row was sent to a model"


def refused(reason: str, tables: Tables) -> RefusalError:
    """The planner's refusal, with the columns there are."""
    listed = "; ".join(
        f"{alias}: {', '.join(visible(schema).names[:30])}" for alias, (schema, _) in tables.items()
    )
    return RefusalError(
        "the data cannot answer the question, says the planner",
        why=" ".join(reason.split())[:_MOST_REASON_CHARACTERS],
        fix=f"ask about what is there ({listed}), or add the table that knows",
        saved=_NOTHING_SPENT,
    )


def unmended(problems: str, repairs: int, draft: str) -> PlanError:
    """After the last repair round: what is wrong, and the draft to mend by hand."""
    rounds = f"{repairs} repair round{'' if repairs == 1 else 's'}"
    return PlanError(
        f"the planner's draft is not valid after {rounds}:\n{problems[:MOST_PROBLEM_CHARACTERS]}",
        fix=f"mend the draft by hand and load it with load_plan, or ask another model:\n{draft}",
        saved=_NOTHING_SPENT,
        code="PLAN-DRAFT",
    )
