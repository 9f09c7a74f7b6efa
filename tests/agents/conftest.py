"""Contracts, replies and a driver that the tests of this room share, as one object: the fixture ``kit``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pyarrow as pa
import pytest

from apwa_dask.agents.agent import Agent
from apwa_dask.agents.conversation import Conversation
from apwa_dask.models.model import Model
from apwa_dask.models.types import OutcomeClass, Reply, Request, Usage
from apwa_dask.plans.contract import Contract
from apwa_dask.plans.steps import Filter, FlatMap, LLMStep, Map, Reduce

COLUMNS = [("text", pa.string()), ("title", pa.string()), ("stars", pa.int64()), ("photo", pa.binary())]


class Kit:
    """Short ways to say what a test is about."""

    table = pa.schema(COLUMNS)
    model = Model("test-model", base_url="http://127.0.0.1:9/v1")
    small = Model("small-model", base_url="http://127.0.0.1:9/v1", prompts="small", context_tokens=4096)
    severity = {"severity": {"type": "integer", "minimum": 1, "maximum": 5}, "product": "string?"}
    good = {"severity": 3, "product": "phone"}

    def map(self, **contract: Any) -> Map:
        """A map over ``text`` with two fields, changed by `contract`."""
        return Map(id="grade", input="reviews", contract=self._contract(contract))

    def filter(self, **contract: Any) -> Filter:
        return Filter(
            id="keep", input="reviews", contract=self._contract({"output": {"keep": bool}, **contract})
        )

    def flat_map(self, max_rows: int = 100, **contract: Any) -> FlatMap:
        return FlatMap(id="split", input="reviews", max_rows=max_rows, contract=self._contract(contract))

    def reduce(self, **contract: Any) -> Reduce:
        contract = {"output": {"summary": str}, **contract}
        return Reduce(id="sum", input="reviews", contract=self._contract(contract))

    def agent(self, step: LLMStep | None = None, model: Model | None = None, **contract: Any) -> Agent:
        return Agent(step or self.map(**contract), model or self.model, self.table)

    def ok(self, answer: Any, **reply: Any) -> Reply:
        """A complete reply: text as it is, anything else as JSON. 10 tokens in, 5 out, 0.01 USD."""
        text = answer if isinstance(answer, str) else orjson.dumps(answer).decode()
        return Reply(OutcomeClass.OK, text, **{"usage": Usage(10, 5), "cost_usd": 0.01, **reply})

    def failed(self, outcome: OutcomeClass, text: str | None = None, **reply: Any) -> Reply:
        return Reply(outcome, text, **{"usage": Usage(10, 5), "cost_usd": 0.01, "message": "why", **reply})

    def play(
        self, conversation: Conversation, answer: Callable[[Request], Reply], most_calls: int = 1_000
    ) -> list[Request]:
        """Drive a conversation by a function from request to reply; the requests it made."""
        sent: list[Request] = []
        while not conversation.finished:
            request = conversation.request
            assert request is not None
            sent.append(request)
            assert len(sent) <= most_calls
            conversation.feed(answer(request))
        return sent

    def _contract(self, changes: Mapping[str, Any]) -> Contract:
        defaults = {"instruction": "How bad is it?", "inputs": ["text"], "output": self.severity}
        return Contract.model_validate({**defaults, **changes})


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()
