"""One draft's calls to the planner: each gives JSON of a given shape, or ends the draft with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from apwa_dask.agents.answers import find_json
from apwa_dask.errors import PlanError
from apwa_dask.models.model import Model
from apwa_dask.models.types import Caller, Message, OutcomeClass, Purpose, Request, Template, Usage

__all__ = ["Session"]

_WHY = {
    OutcomeClass.TRUNCATED: "its answer was cut off at the limit of output tokens",
    OutcomeClass.DEADLINE: "it did not answer in time",
    OutcomeClass.TRANSIENT: "the endpoint kept failing",
    OutcomeClass.REFUSED: "it declined to answer",
    OutcomeClass.FILTERED: "the provider's content filter stopped it",
    OutcomeClass.TOO_LARGE: "the prompt is larger than its window",
    OutcomeClass.STOPPED: "the call was stopped",
}
_PURPOSE = Purpose(run_id="", step_id="plan")


class Session:
    """The calls of one draft, one after another, and what they came to.

    Parameters
    ----------
    caller : Caller
    model : Model

    Attributes
    ----------
    usage : Usage
        Of all calls so far; answers kept from an earlier draft count too.
    calls : int
    """

    def __init__(self, caller: Caller, model: Model) -> None:
        self._caller, self.model = caller, model
        self.usage, self.calls = Usage(), 0

    async def ask(
        self,
        constant: Sequence[Message],
        tail: Sequence[Message],
        schema: Mapping[str, Any],
        *,
        output_tokens: int,
        name: str = "plan",
    ) -> dict[str, Any]:
        """One answer.

        Parameters
        ----------
        constant : sequence of Message
            The same for every draft, so that endpoints can cache it.
        tail : sequence of Message
            This draft's own messages.
        schema : mapping
            JSON Schema of the answer, an object.
        output_tokens : int
            Ceiling of the answer, where the model does not set its own.

        Raises
        ------
        PlanError
            There is no complete JSON object; the message names the class of the outcome.
        """
        template = Template(
            self.model,
            tuple(constant),
            schema=schema,
            schema_name=name,
            max_output_tokens=self._ceiling(output_tokens),
        )
        reply = await self._caller.call(Request(template, tuple(tail)), _PURPOSE)
        self.calls += 1
        self.usage += reply.usage
        if not reply.ok:
            raise self._unusable(reply.outcome, _WHY.get(reply.outcome, reply.message))
        answer = next((found for found in find_json(reply.text or "") if isinstance(found, dict)), None)
        if answer is None:
            raise self._unusable(OutcomeClass.INVALID_OUTPUT, "its answer holds no JSON object")
        return answer

    def unfit(self, why: str) -> PlanError:
        """The error for an answer that is JSON of another shape than was asked for."""
        return self._unusable(OutcomeClass.INVALID_OUTPUT, why)

    def _ceiling(self, output_tokens: int) -> int:
        window = self.model.context_tokens
        wanted = min(self.model.max_output_tokens or output_tokens, output_tokens)
        return min(wanted, window // 2) if window else wanted

    def _unusable(self, outcome: OutcomeClass, why: str) -> PlanError:
        return PlanError(
            f"the planner gave no plan ({outcome})",
            where=f"call {self.calls} to {self.model.name}",
            why=why,
            fix="ask again or another model (model=...), or write the plan with verbs or as YAML (load_plan)",
            saved="nothing was read beyond the profile, and no row was sent to a model",
            code="PLAN-DRAFT",
        )
