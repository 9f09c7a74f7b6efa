"""The subtask contract: all that one agent may know, and all that it must answer."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from apwa_dask.plans.schema import Schema

__all__ = ["Contract", "Example", "Limits", "Unit"]

Unit = str
"""``row`` (default), ``pack(n)``, ``partition`` or ``group``."""

_PACK = re.compile(r"pack\(([1-9]\d{0,3})\)")


class Limits(BaseModel):
    """Caps for one unit of work. ``None`` means the model's own default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output_tokens: int | None = Field(default=None, ge=1)
    input_tokens: int | None = Field(default=None, ge=1)
    steps: int = Field(default=8, ge=1)
    seconds: float | None = Field(default=None, gt=0)
    cost_usd: float | None = Field(default=None, gt=0)


class Example(BaseModel):
    """One worked answer, shown to the model as a chat turn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: dict[str, Any]
    output: dict[str, Any]


class Contract(BaseModel):
    """What an agent is told, sees, and must return.

    Parameters
    ----------
    instruction : str
        The task in plain words. It is literal text: braces in it mean nothing.
    inputs : tuple of str
        Only these columns reach the prompt.
    output : Schema
        What must come back.
    unit : str
        ``row``, ``pack(n)``, ``partition`` or ``group``: what one agent works on.
    tools : tuple of str
        Registered capabilities by name.
    tables : tuple of str
        Sources of the plan that these tools may read: looked up, never shown in a prompt.
    model : str, optional
        Alias of the model; the run's default when omitted.
    examples : tuple of Example
        Worked answers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    instruction: str = Field(min_length=1)
    inputs: tuple[str, ...] = Field(min_length=1)
    output: Schema
    unit: Unit = "row"
    tools: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    model: str | None = None
    examples: tuple[Example, ...] = ()
    limits: Limits = Limits()

    @field_validator("unit")
    @classmethod
    def _known_unit(cls, unit: str) -> str:
        if unit in ("row", "partition", "group") or _PACK.fullmatch(unit):
            return unit
        raise ValueError(f"unit {unit!r} is not one of row, pack(n), partition, group")

    @property
    def pack_rows(self) -> int | None:
        """Rows of one call for ``pack(n)``, else None."""
        match = _PACK.fullmatch(self.unit)
        return int(match.group(1)) if match else None
