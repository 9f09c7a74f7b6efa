"""The driver: every row has its outcome, branches run together, deadlines and stops are kept."""

from __future__ import annotations

import asyncio

import pytest

from apwa_dask.agents.capabilities import ToolResult
from apwa_dask.agents.driver import converse
from apwa_dask.errors import BudgetError
from apwa_dask.models.types import OutcomeClass, Purpose, Reply, ToolCall

PURPOSE = Purpose("run", "step")


class Scripted:
    """A caller that answers by a function and keeps count."""

    def __init__(self, answer):
        self.answer, self.calls, self.in_flight, self.most_in_flight = answer, 0, 0, 0

    async def call(self, request, purpose):
        assert purpose is PURPOSE
        self.calls += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        return self.answer(request)


def test_a_conversation_is_driven_to_its_outcome(kit):
    replies = iter(["no", kit.good])
    caller = Scripted(lambda _: kit.ok(next(replies)))
    conversation = kit.agent().begin({"text": "It broke."})
    asyncio.run(converse(conversation, caller, PURPOSE))
    assert (conversation.outcome.ok, caller.calls) == (True, 2)


def test_a_conversation_that_is_over_makes_no_call(kit):
    caller = Scripted(lambda _: pytest.fail("called"))
    conversation = kit.agent().begin({"text": None})
    asyncio.run(converse(conversation, caller, PURPOSE))
    assert caller.calls == 0


def test_open_rows_of_a_pack_are_asked_at_the_same_time(kit):
    def answer(request):
        return kit.ok(
            {"rows": [{"row": 1, **kit.good}]}
            if "rows" in request.template.schema["properties"]
            else kit.good
        )

    caller = Scripted(answer)
    (conversation,) = kit.agent(unit="partition").begin_many([{"text": "x" * n} for n in range(1, 6)])
    asyncio.run(converse(conversation, caller, PURPOSE))
    assert (caller.calls, caller.most_in_flight) == (5, 4)
    assert all(outcome.ok for outcome in conversation.outcomes.values())


@pytest.mark.parametrize("unit", ["row", "partition"])
def test_what_stops_the_run_reaches_the_caller_as_itself(kit, unit):
    def answer(request):
        if unit == "partition" and "rows" in request.template.schema["properties"]:
            return kit.ok({"rows": [{"row": 1, **kit.good}]})
        raise BudgetError("the ceiling is reached")

    conversation = kit.agent(unit=unit).begin_many([{"text": "x" * n} for n in range(1, 6)])[0]
    with pytest.raises(BudgetError):
        asyncio.run(converse(conversation, Scripted(answer), PURPOSE))
    assert not conversation.finished


def test_the_contracts_seconds_are_a_wall_deadline(kit):
    class Hanging:
        async def call(self, request, purpose):
            await asyncio.Event().wait()

    conversation = kit.agent(limits={"seconds": 0.01}).begin({"text": "It broke."})
    asyncio.run(converse(conversation, Hanging(), PURPOSE))
    assert conversation.outcome.outcome is OutcomeClass.DEADLINE


def test_a_timeout_of_the_caller_itself_is_not_taken_for_the_units_deadline(kit):
    def answer(request):
        raise TimeoutError

    conversation = kit.agent(limits={"seconds": 60}).begin({"text": "It broke."})
    with pytest.raises(TimeoutError):
        asyncio.run(converse(conversation, Scripted(answer), PURPOSE))


def test_cancelling_leaves_the_conversation_unfinished(kit):
    async def run():
        started = asyncio.Event()

        class Hanging:
            async def call(self, request, purpose):
                started.set()
                await asyncio.Event().wait()

        conversation = kit.agent().begin({"text": "It broke."})
        task = asyncio.create_task(converse(conversation, Hanging(), PURPOSE))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return conversation

    assert not asyncio.run(run()).finished


def test_tools_run_through_the_drivers_callback_or_end_the_row(kit, monkeypatch):
    from apwa_dask.agents import capabilities

    monkeypatch.setattr(capabilities, "_registry", {})

    @capabilities.capability
    def lookup(code: str) -> str:
        return code

    def answer(request):
        if request.tail[-1].role == "tool":
            return kit.ok(kit.good)
        return Reply(OutcomeClass.OK, "", tool_calls=(ToolCall("c", "lookup", '{"code":"A"}'),))

    async def run_tool(call, unit):
        return ToolResult(call.arguments)

    agent = kit.agent(tools=["lookup"])
    with_tools, without = agent.begin({"text": "a"}), agent.begin({"text": "a"})
    asyncio.run(converse(with_tools, Scripted(answer), PURPOSE, run_tool))
    asyncio.run(converse(without, Scripted(answer), PURPOSE))
    assert with_tools.outcome.ok
    assert without.outcome.outcome is OutcomeClass.TOOL_ERROR
