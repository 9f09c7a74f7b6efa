"""`Plan`: a small directed acyclic graph of steps over named tables; closed data, safe from anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from apwa_dask.plans.steps import Join, LLMStep, Name, Resolve, Step

if TYPE_CHECKING:
    from apwa_dask.plans.diff import PlanDiff

__all__ = ["PLAN_VERSION", "Plan"]

PLAN_VERSION = 1


class Plan(BaseModel):
    """A typed plan.

    Parameters
    ----------
    sources : tuple of str
        Aliases of the tables the plan may read. Never URLs.
    steps : tuple of Step
        In an order in which each step comes after those it reads.
    output : str, optional
        Step (or source) whose rows are the result; the last step when omitted.
    query : str
        The question the plan answers, for people.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = PLAN_VERSION
    query: str = ""
    sources: tuple[Name, ...] = Field(min_length=1)
    steps: tuple[Step, ...] = ()
    output: Name | None = None

    @property
    def result(self) -> str:
        """Name of the step or source whose rows are the result."""
        if self.output is not None:
            return self.output
        return self.steps[-1].id if self.steps else self.sources[0]

    @property
    def tools(self) -> tuple[str, ...]:
        """Names of all tools that its steps may call, sorted."""
        return tuple(sorted({name for step in self.llm_steps for name in step.contract.tools}))

    @property
    def models(self) -> frozenset[str]:
        """Aliases of all models that its steps name."""
        named = {step.contract.model for step in self.llm_steps}
        named |= {step.embed for step in self.steps if isinstance(step, Join | Resolve)}
        return frozenset(alias for alias in named if alias is not None)

    @property
    def llm_steps(self) -> tuple[LLMStep, ...]:
        """The steps that call a model."""
        return tuple(step for step in self.steps if isinstance(step, LLMStep))

    def step(self, step_id: str) -> Any:
        """The step with this id (KeyError when there is none)."""
        for step in self.steps:
            if step.id == step_id:
                return step
        raise KeyError(step_id)

    def canonical(self) -> Mapping[str, Any]:
        """The plan as plain data without words that change no result (query, reasons)."""
        data = self.model_dump(mode="json", exclude={"query"})
        for step in data["steps"]:
            step.pop("reason", None)
            if not step.get("contract", {}).get("tables", True):
                del step["contract"]["tables"]  # as in plans that were written before there were any
            if step.get("embed", "") is None:
                del step["embed"]
        return data

    @property
    def hash(self) -> str:
        """SHA-256 over `canonical`, hexadecimal: equal plans have equal hashes in every process."""
        return hashlib.sha256(orjson.dumps(self.canonical(), option=orjson.OPT_SORT_KEYS)).hexdigest()

    def to_yaml(self) -> str:
        """The plan as YAML to keep and edit; `from_yaml` of it is an equal plan."""
        from apwa_dask.plans.yaml_io import to_yaml

        return to_yaml(self)

    @classmethod
    def from_yaml(cls, text: str) -> Plan:
        """Read a plan from YAML or JSON text.

        Raises
        ------
        PlanError
            What is wrong, where, and the candidates.
        """
        from apwa_dask.plans.yaml_io import from_yaml

        return from_yaml(text)

    def to_python(self) -> str:
        """The plan as a Python program against public names; run, it assigns an equal plan to ``plan``."""
        from apwa_dask.plans.to_python import to_python

        return to_python(self)

    def diff(self, other: Plan) -> PlanDiff:
        """What `other` changes, by step id and field; false when nothing differs. Printed, a line a change."""
        from apwa_dask.plans.diff import diff

        return diff(self, other)

    def __repr__(self) -> str:
        from apwa_dask.plans.explain import summary

        return summary(self)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        from apwa_dask.plans.explain import summary_html

        return summary_html(self)

    def __dask_tokenize__(self) -> str:
        return self.hash
