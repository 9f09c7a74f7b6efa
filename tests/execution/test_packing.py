"""Texts that share a request: who gets which vector, who pays what, and what a fault of one does to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from apwa_dask.errors import BudgetError
from apwa_dask.execution.packing import MOST_TOKENS, PackingCaller
from apwa_dask.models.model import Model
from apwa_dask.models.types import Message, OutcomeClass, Purpose, Reply, Request, Template, Usage
from apwa_dask.models.vectors import MOST_TEXTS

TEMPLATE = Template(Model("vectors"), (), kind="embeddings")


def of(text: str, template: Template = TEMPLATE) -> Request:
    return Request(template, (Message("user", text),))


def texts_of(request: Request) -> list[str]:
    return [str(message.content) for message in request.tail]


def answered(texts: list[str]) -> Reply:
    return Reply(
        OutcomeClass.OK, "\n".join(f"<{text}>" for text in texts), usage=Usage(10 * len(texts)), cost_usd=1.0
    )


@dataclass
class Endpoint:
    """A caller that notes what it was sent."""

    answer: Callable[[list[str]], Reply] = answered
    sent: list[list[str]] = field(default_factory=list)

    async def call(self, request: Request, purpose: Purpose) -> Reply:
        texts = texts_of(request)
        self.sent.append(texts)
        await asyncio.sleep(0)
        return self.answer(texts)


def replies(endpoint: Endpoint, texts: list[str], template: Template = TEMPLATE) -> list[Reply]:
    async def together() -> list[Reply]:
        caller = PackingCaller(endpoint)
        return await asyncio.gather(*(caller.call(of(text, template), Purpose("r", "s")) for text in texts))

    return asyncio.run(together())


def test_each_text_gets_its_own_vector_and_the_shares_add_up_to_the_bill() -> None:
    endpoint = Endpoint()
    texts = [f"{n} " + "word " * (n % 7) for n in range(MOST_TEXTS + 10)]

    got = replies(endpoint, texts)

    assert [reply.text for reply in got] == [f"<{text}>" for text in texts]
    assert [len(sent) for sent in endpoint.sent] == [MOST_TEXTS, 10]
    assert sum(reply.usage.input for reply in got) == 10 * len(texts)
    assert sum(reply.cost_usd or 0.0 for reply in got) == pytest.approx(2.0)


def test_long_texts_travel_in_smaller_company() -> None:
    endpoint = Endpoint()
    replies(endpoint, ["x" * 4 * (MOST_TOKENS // 3)] * 5)
    assert [len(sent) for sent in endpoint.sent] == [2, 2, 1]


def test_a_refused_text_is_found_alone_and_what_was_paid_on_the_way_is_kept() -> None:
    def answer(texts: list[str]) -> Reply:
        if "bad" in texts:
            return Reply(OutcomeClass.BAD_INPUT, usage=Usage(6), cost_usd=0.5, message="no")
        return answered(texts)

    endpoint = Endpoint(answer)

    got = replies(endpoint, ["one", "bad", "two"])

    assert [reply.outcome for reply in got] == [OutcomeClass.OK, OutcomeClass.BAD_INPUT, OutcomeClass.OK]
    assert endpoint.sent == [["one", "bad", "two"], ["one"], ["bad"], ["two"]]
    assert sum(reply.usage.input for reply in got) == 6 + 10 + 6 + 10
    assert sum(reply.cost_usd or 0.0 for reply in got) == pytest.approx(0.5 + 1.0 + 0.5 + 1.0)


def test_too_few_vectors_are_nobodys_answer() -> None:
    endpoint = Endpoint(lambda texts: answered(texts[:1]))
    assert [reply.text for reply in replies(endpoint, ["one", "two"])] == ["<one>", "<two>"]


@pytest.mark.parametrize("outcome", [OutcomeClass.TRANSIENT, OutcomeClass.DEADLINE, OutcomeClass.STOPPED])
def test_an_endpoint_in_trouble_is_not_asked_again_text_by_text(outcome: OutcomeClass) -> None:
    endpoint = Endpoint(lambda texts: Reply(outcome, message="why"))
    assert {reply.outcome for reply in replies(endpoint, ["one", "two"])} == {outcome}
    assert len(endpoint.sent) == 1


def test_what_stops_the_run_reaches_everybody_who_waits() -> None:
    def refuse(texts: list[str]) -> Reply:
        raise BudgetError("the ceiling is reached")

    async def together() -> list[Reply | BaseException]:
        caller = PackingCaller(Endpoint(refuse))
        calls = (caller.call(of(text), Purpose("r", "s")) for text in ("one", "two"))
        return await asyncio.gather(*calls, return_exceptions=True)

    assert [type(error) for error in asyncio.run(together())] == [BudgetError, BudgetError]


def test_an_answer_that_was_paid_is_kept_when_the_next_text_stops_the_run() -> None:
    def answer(texts: list[str]) -> Reply:
        if len(texts) > 1:
            return Reply(OutcomeClass.BAD_INPUT, message="too many texts")
        if texts == ["two"]:
            raise BudgetError("the ceiling is reached")
        return answered(texts)

    async def together() -> list[Reply | BaseException]:
        caller = PackingCaller(Endpoint(answer))
        calls = (caller.call(of(text), Purpose("r", "s")) for text in ("one", "two"))
        return await asyncio.gather(*calls, return_exceptions=True)

    one, two = asyncio.run(together())
    assert isinstance(one, Reply)
    assert one.text == "<one>"
    assert isinstance(two, BudgetError)


def test_who_gives_up_takes_nobody_along() -> None:
    async def one_leaves() -> Reply:
        caller = PackingCaller(Endpoint())
        leaver, other = (
            asyncio.ensure_future(caller.call(of(text), Purpose("r", "s"))) for text in ("one", "two")
        )
        await asyncio.sleep(0)
        leaver.cancel()
        return await other

    assert asyncio.run(one_leaves()).text == "<two>"


def test_chats_go_straight_to_the_client() -> None:
    endpoint = Endpoint()
    replies(endpoint, ["one", "two"], Template(Model("chat"), ()))
    assert endpoint.sent == [["one"], ["two"]]
