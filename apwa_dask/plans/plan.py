"""`Plan`: a small directed acyclic graph of steps over named tables. Closed data, safe to read from anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from apwa_dask.plans.steps import LLMStep, Name, Step

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
        return data

    @property
    def hash(self) -> str:
        """SHA-256 over `canonical`, hexadecimal: equal plans have equal hashes in every process."""
        return hashlib.sha256(orjson.dumps(self.canonical(), option=orjson.OPT_SORT_KEYS)).hexdigest()

    def __dask_tokenize__(self) -> str:
        return self.hash
