"""How long an answer may be, and what fits into a prompt: arithmetic over a contract and a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from apwa_dask.agents.tokens import estimate_tokens
from apwa_dask.models.model import Model
from apwa_dask.models.types import Message, Template
from apwa_dask.plans.contract import Contract
from apwa_dask.plans.schema import Field, Schema

__all__ = [
    "TRUNCATION_GROWTH",
    "Room",
    "answer_bound",
    "expected_answer",
    "first_ceiling",
    "message_tokens",
    "room_of",
]

TRUNCATION_GROWTH = 4
"""A truncated answer is tried once more with so many times the ceiling."""

LARGEST_WINDOW_TOKENS = 1_000_000
"""Taken for a model of unknown window: no common one is larger, so that a 10 MB cell fails without a call."""

UNKNOWN_PACK_TOKENS = 32_000
"""Most tokens of a packed prompt for a model of unknown window: nearly all hosted models take so many."""

LOWEST_CEILING = {"standard": 1_024, "small": 96}
"""Room for models that think before they answer; small models do not, and run on when they go wrong."""

IMAGE_TOKENS = 1_000
_PACKING_MARGIN = 0.8
_MESSAGE_TOKENS = 4
_SCALAR_TOKENS = {"integer": 8, "number": 12, "boolean": 3, "date": 10, "datetime": 20}
_TEXT_TOKENS, _LIST_ITEMS, _LARGEST_BOUND = 200, 16, 8_192


@dataclass(frozen=True, slots=True)
class Room:
    """What one request may hold.

    Parameters
    ----------
    input_tokens : int
        Most tokens of a whole prompt (estimated); more is ``too_large`` without a call.
    constant_tokens : int
        Of these, taken by the template.
    window_tokens : int or None
        The model's window, prompt and answer together, where it is known.
    """

    input_tokens: int
    constant_tokens: int
    window_tokens: int | None

    def tail_tokens(self, tail: Iterable[Message]) -> int:
        """Estimated tokens of a whole prompt with these messages after the constant part."""
        return self.constant_tokens + sum(map(message_tokens, tail))

    @property
    def packing_tokens(self) -> int:
        """Tokens of items or rows packed into one prompt: less a margin for the estimate's error."""
        known = self.window_tokens is not None
        most = self.input_tokens if known else min(self.input_tokens, UNKNOWN_PACK_TOKENS)
        return max(int(most * _PACKING_MARGIN) - self.constant_tokens, 0)

    def grown(self, ceiling: int | None, prompt_tokens: int) -> int | None:
        """The ceiling after a truncated answer; None when nothing larger fits the window."""
        if ceiling is None:
            return None
        larger = ceiling * TRUNCATION_GROWTH
        if self.window_tokens is not None:
            larger = min(larger, self.window_tokens - prompt_tokens)
        return larger if larger > ceiling else None


def room_of(template: Template, contract: Contract) -> Room:
    """The room of a template: the model's window less the answer, and the contract's own cap."""
    window = template.model.context_tokens
    most = (window or LARGEST_WINDOW_TOKENS) - (template.max_output_tokens or 0)
    if contract.limits.input_tokens is not None:
        most = min(most, contract.limits.input_tokens)
    return Room(max(most, 0), sum(map(message_tokens, template.messages)), window)


def first_ceiling(contract: Contract, model: Model, schema: Schema, wanted_tokens: int | None = None) -> int:
    """Most tokens of an answer: the contract's word, else the model's, else what the schema can need.

    Never more than half the model's window, so that a prompt has room beside it.

    Parameters
    ----------
    contract, model, schema : Contract, Model, Schema
    wanted_tokens : int, optional
        In place of the schema's own bound, for answers about several rows.
    """
    ceiling = contract.limits.output_tokens or model.max_output_tokens
    if ceiling is None:
        bound = min(wanted_tokens or answer_bound(schema), _LARGEST_BOUND)
        ceiling = max(bound, LOWEST_CEILING[model.prompts])
    return min(ceiling, max(model.context_tokens // 2, 1)) if model.context_tokens else ceiling


def answer_bound(schema: Schema) -> int:
    """Tokens that an answer of this schema can need, pretty-printed, with texts of a long paragraph."""
    return 8 + sum(_field_bound(field) for field in schema)


def expected_answer(schema: Schema) -> int:
    """Tokens of a usual answer, compact, with texts of a sentence: for deciding how many share one answer."""
    bound = sum(estimate_tokens(field.name) + 4 + _value_bound(field) for field in schema)
    return 8 + min(bound, 16 + bound // 4)


def message_tokens(message: Message) -> int:
    """Estimated tokens of one message; an image counts `IMAGE_TOKENS`."""
    if isinstance(message.content, str):
        return _MESSAGE_TOKENS + estimate_tokens(message.content)
    texts = [part["text"] for part in message.content if part.get("type") == "text"]
    images = len(message.content) - len(texts)
    return _MESSAGE_TOKENS + IMAGE_TOKENS * images + sum(map(estimate_tokens, texts))


def _field_bound(field: Field) -> int:
    return estimate_tokens(field.name) + 6 + _value_bound(field)


def _value_bound(field: Field) -> int:
    if field.labels is not None:
        return max(estimate_tokens(label) * 2 for label in field.labels)
    if field.type == "list":
        assert field.items is not None
        return _LIST_ITEMS * (4 + _value_bound(field.items) // 2)
    if field.type == "object":
        return 4 + sum(_field_bound(member) for member in field.fields)
    return _SCALAR_TOKENS.get(field.type, _TEXT_TOKENS)
