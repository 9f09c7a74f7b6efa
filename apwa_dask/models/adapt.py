"""What an endpoint turned out to lack, and templates as it takes them. Remembered for endpoint and model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import orjson

from apwa_dask.models.model import Structured
from apwa_dask.models.outcomes import StepDown
from apwa_dask.models.types import Message, Template

__all__ = ["Adaptation", "with_schema_in_words"]

_NEXT: dict[str, Structured] = {"json_schema": "json_object", "json_object": "text"}


@dataclass(frozen=True, slots=True)
class Adaptation:
    """The changes that all requests to one endpoint and model need.

    Parameters
    ----------
    structured : str
        Lower form of structured output; None: as the model says.
    max_tokens_field : str
        Other name of the output limit; empty: as the model says.
    wire_name : str
        The name under which the endpoint serves the model; empty: the model's own.
    """

    structured: Structured | None = None
    max_tokens_field: str = ""
    wire_name: str = ""

    def __bool__(self) -> bool:
        return bool(self.structured or self.max_tokens_field or self.wire_name)

    def after(self, declined: StepDown, sent: Template) -> Adaptation | None:
        """The adaptation after the endpoint declined something of the template as it was sent; None: no way
        down.

        A call that was under way when another one found out is answered by what is known now.
        """
        if declined == "max_tokens":
            other = "max_completion_tokens"
            if sent.model.max_tokens_field == other:
                return None
            return replace(self, max_tokens_field=other)
        if sent.schema is None:
            return None
        lower = _NEXT.get(sent.model.structured)
        if lower is None:
            return None
        known_lower = self.structured if self.structured != sent.model.structured else None
        return replace(self, structured=known_lower or lower)

    def applied(self, template: Template) -> Template:
        """The template as this endpoint takes it."""
        model = template.model
        structured = self.structured or model.structured
        changed = replace(
            model,
            name=self.wire_name or model.name,
            structured=structured,
            max_tokens_field=self.max_tokens_field or model.max_tokens_field,
        )
        if structured != model.structured and template.schema is not None:
            template = with_schema_in_words(template)
        return template.with_model(changed)


def with_schema_in_words(template: Template) -> Template:
    """The template with its schema written into the system message, for endpoints that do not enforce one."""
    schema = orjson.dumps(template.schema).decode()
    words = f"Answer with one JSON value that fits this JSON schema, and nothing else:\n{schema}"
    messages = template.messages
    if messages and messages[0].role == "system" and isinstance(messages[0].content, str):
        system = replace(messages[0], content=f"{messages[0].content}\n\n{words}")
        return replace(template, messages=(system, *messages[1:]))
    return replace(template, messages=(Message("system", words), *messages))
