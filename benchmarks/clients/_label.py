"""The answer's type for clients that take a pydantic model."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

KNOWN_MODEL = "gpt-4o-mini"
"""For libraries that refuse a model whose price they do not know; the scripted server takes any name."""


class Label(BaseModel):
    """What each row is asked for."""

    topic: Literal["billing", "delivery", "login", "other"] = Field(description="topic of the ticket")
    severity: int = Field(description="from 1 to 5")


def fields(label: Label | None) -> dict[str, Any] | None:
    """The answer as columns; None for a row that has none."""
    return None if label is None else label.model_dump()
