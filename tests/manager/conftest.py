"""A planner that says what the test scripts, and a table to ask about."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from apwa_dask.models.model import Model
from apwa_dask.models.types import OutcomeClass, Purpose, Reply, Request, Usage
from apwa_dask.tables import profile_frame

Said = Mapping[str, Any] | str | Reply


class ScriptedPlanner:
    """A caller that gives scripted answers in turn and keeps the requests; it fails when asked too often."""

    def __init__(self, answers: Iterable[Said] | Callable[[Request], Said]) -> None:
        self._answers = answers if callable(answers) else iter(answers)
        self.requests: list[Request] = []

    async def call(self, request: Request, purpose: Purpose) -> Reply:
        assert purpose.step_id == "plan"
        self.requests.append(request)
        said = self._answers(request) if callable(self._answers) else next(self._answers)
        if isinstance(said, Reply):
            return said
        text = said if isinstance(said, str) else json.dumps(said)
        return Reply(OutcomeClass.OK, text, usage=Usage(100, 10))


class Kit:
    """Short ways to say what a test is about."""

    Planner = ScriptedPlanner
    strong = Model("strong", base_url="http://127.0.0.1:9/v1")
    small = Model("small", base_url="http://127.0.0.1:9/v1", prompts="small", context_tokens=4096)
    frame = pd.DataFrame(
        {
            "id": [f"r{n}" for n in range(12)],
            "stars": list(range(12)),
            "city": ["Oslo", "Rome"] * 6,
            "text": [f"The tent number {n} leaks and I want my money back" for n in range(12)],
        }
    )

    def catalog(self, frame: pd.DataFrame | None = None, alias: str = "reviews", **profile: Any) -> Any:
        """One table by alias, as `draft_async` takes it."""
        import pyarrow as pa

        frame = self.frame if frame is None else frame
        schema = pa.Schema.from_pandas(frame, preserve_index=False).remove_metadata()
        return {alias: (schema, profile_frame(frame, name=alias, **profile))}

    def body(self, request: Request) -> str:
        """What the endpoint gets."""
        return request.body().decode()

    def failed(self, outcome: OutcomeClass) -> Reply:
        return Reply(outcome, None, message="why")


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()


@pytest.fixture(scope="session")
def drafts() -> dict[str, Any]:
    """What a good strong model answers to each query of the shared planner set."""
    text = (Path(__file__).parent / "drafts.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded
