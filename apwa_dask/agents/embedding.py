"""`EmbedAgent`: turns rows into requests for vectors. What it begins are conversations like any other's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from apwa_dask.agents.agent import Agent
from apwa_dask.agents.answers import Invalid
from apwa_dask.agents.capabilities import ToolResult
from apwa_dask.agents.clean import clean_text
from apwa_dask.agents.conversation import Conversation, RowConversation, Terms
from apwa_dask.agents.limits import room_of
from apwa_dask.agents.unit import NOTHING, Unit
from apwa_dask.models.model import Model
from apwa_dask.models.types import Message, OutcomeClass, Template, ToolCall
from apwa_dask.models.vectors import floats_of
from apwa_dask.plans.lowering import Embed

__all__ = ["EmbedAgent", "RowAgent", "embedding_template"]


def embedding_template(model: Model) -> Template:
    """What all requests for embeddings of this model share."""
    return Template(model, (), kind="embeddings")


class _VectorReader:
    """Reads a stored vector into the row's column."""

    def __init__(self, column: str) -> None:
        self._column = column

    def read(self, text: str) -> dict[str, Any] | Invalid:
        try:
            floats_of(text)
        except ValueError:
            return Invalid("the answer is no vector")
        return {self._column: text}


class _Wordless(RowConversation):
    """Of a row without text: it has no vector, and so no neighbours; nothing is asked."""

    __slots__ = ()

    def __init__(self, terms: Terms, column: str, index: int) -> None:
        super().__init__(terms, (), index)
        self._finish(OutcomeClass.OK, values={column: None})


class EmbedAgent:
    """The agent of one `Embed` step: what an `Agent` is to a map. Thread-safe; picklable.

    Parameters
    ----------
    step : Embed
    model : Model
    """

    def __init__(self, step: Embed, model: Model) -> None:
        self.step, self.model = step, model
        (self._column,) = step.contract.output.names
        template = embedding_template(model)
        self._terms = Terms(
            template, _VectorReader(self._column), room_of(template, step.contract), max_reasks=0
        )

    @property
    def template(self) -> Template:
        """The constant part of requests."""
        return self._terms.template

    def begin(self, row: Mapping[str, Any], index: int = 0) -> RowConversation:
        """The conversation about one row: its texts, with a space between; over at once where there are none."""
        cells = (row[name] for name in self.step.contract.inputs)
        text = clean_text(" ".join(str(cell) for cell in cells if cell is not None))
        if not text.strip():
            return _Wordless(self._terms, self._column, index)
        return RowConversation(self._terms, (Message("user", text),), index)

    def begin_many(self, rows: Sequence[Mapping[str, Any]]) -> list[Conversation]:
        """One conversation a row."""
        return [self.begin(row, index) for index, row in enumerate(rows)]

    def run_tool(self, call: ToolCall, unit: Unit = NOTHING) -> ToolResult:
        """No tool is offered, so none can be called."""
        raise RuntimeError(f"a request for embeddings has no tools, and none called {call.name!r}")


RowAgent: TypeAlias = Agent | EmbedAgent
"""The agent of a row-local model step."""
