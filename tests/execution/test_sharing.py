"""Several processes over one journal, played on one loop: each request is sent once, whoever dies or stalls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from apwa_dask.errors import StoreError
from apwa_dask.execution import sharing as module
from apwa_dask.execution.caller import Control
from apwa_dask.execution.sharing import ClaimFn, Sharing, SharingCaller
from apwa_dask.models.claimed import ClaimBook
from apwa_dask.models.model import Model
from apwa_dask.models.types import Message, OutcomeClass, Purpose, Reply, Request, Template
from apwa_dask.store.journal import Journal

TEMPLATE = Template(Model("m", base_url="http://127.0.0.1:9/v1", api_key_env=""), ())


@pytest.fixture(autouse=True)
def _quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_S", 0.02)


class Endpoint:
    """A client that answers every request, and counts."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.outcome = OutcomeClass.OK
        self.delay_s = 0.05

    async def call(self, request: Request, purpose: Purpose) -> Reply:
        self.sent.append(str(request.tail[0].content))
        await asyncio.sleep(self.delay_s)
        return Reply(self.outcome, text=f"about {request.tail[0].content}", model="m")


class Process:
    """One worker process: a journal of its own over the common store."""

    def __init__(self, name: str, store: str, book: ClaimBook, endpoint: Endpoint, claim: Any = None) -> None:
        self.journal = Journal(store, flush_s=60.0)
        self.control = Control()
        self.sharing = Sharing(claim or asked(book, name), "room", self.journal)
        self.caller = SharingCaller(endpoint, self.journal, self.control, "", sharing=self.sharing)

    async def work(self, *texts: str) -> list[Reply]:
        requests = [Request(TEMPLATE, (Message("user", text),)) for text in texts]
        await self.sharing.announce([request.fingerprint("") for request in requests])
        return await asyncio.gather(*(self.caller.call(request, Purpose()) for request in requests))


def asked(book: ClaimBook, name: str) -> ClaimFn:
    async def claim(room: str, asked: bytes, answered: bytes, dropped: bytes) -> bytes:
        return book.exchange(name, room, asked, answered, dropped)

    return claim


@pytest.fixture
def play(store: str) -> Callable[..., Any]:
    """``play(story)``: runs ``story(make, endpoint, book)``, where ``make(name)`` is a process."""

    def run(story: Callable[..., Any]) -> Any:
        async def told() -> Any:
            book, endpoint, made = ClaimBook(), Endpoint(), []

            def make(name: str, claim: Any = None) -> Process:
                made.append(Process(name, store, book, endpoint, claim))
                return made[-1]

            result = await asyncio.wait_for(story(make, endpoint, book), 20)
            for process in made:
                process.sharing.give_up()
                process.journal.close()
            return result, endpoint

        return asyncio.run(told())

    return run


def test_two_processes_send_each_distinct_request_once(play: Callable[..., Any]) -> None:
    async def story(make: Any, endpoint: Endpoint, book: ClaimBook) -> Any:
        one, two = make("w1"), make("w2")
        texts = [f"row {k}" for k in range(20)]
        return await asyncio.gather(one.work(*texts), two.work(*reversed(texts)))

    (ours, theirs), endpoint = play(story)
    assert sorted(endpoint.sent) == sorted({f"row {k}" for k in range(20)})
    assert [reply.text for reply in ours] == [reply.text for reply in reversed(theirs)]
    assert sum(reply.source == "journal" for reply in (*ours, *theirs)) == 20
    assert sum(reply.attempts for reply in (*ours, *theirs)) == 20, "who waited paid nothing"


def test_what_was_answered_elsewhere_earlier_is_read_and_not_sent(play: Callable[..., Any]) -> None:
    async def story(make: Any, endpoint: Endpoint, book: ClaimBook) -> Any:
        one, two = make("w1"), make("w2")
        await one.work("a", "b")
        await asyncio.sleep(0.2)
        return await two.work("b", "c")

    replies, endpoint = play(story)
    assert sorted(endpoint.sent) == ["a", "b", "c"]
    assert [reply.source for reply in replies] == ["journal", "live"]


def test_a_request_that_failed_elsewhere_is_sent_here(play: Callable[..., Any]) -> None:
    async def story(make: Any, endpoint: Endpoint, book: ClaimBook) -> Any:
        one, two = make("w1"), make("w2")
        endpoint.outcome = OutcomeClass.TRANSIENT
        first = asyncio.create_task(one.work("a"))
        await asyncio.sleep(0.02)
        second = asyncio.create_task(two.work("a"))
        await first
        endpoint.outcome = OutcomeClass.OK
        return await second

    (reply,), endpoint = play(story)
    assert reply.ok
    assert endpoint.sent == ["a", "a"]


def test_requests_of_a_process_that_died_are_sent_by_who_waited(play: Callable[..., Any]) -> None:
    async def story(make: Any, endpoint: Endpoint, book: ClaimBook) -> Any:
        one, two = make("w1"), make("w2")
        request = Request(TEMPLATE, (Message("user", "a"),))
        await one.sharing.announce([request.fingerprint("")])
        waiting = asyncio.create_task(two.work("a"))
        await asyncio.sleep(0.1)
        assert endpoint.sent == []
        one.sharing._mine.clear()  # it is gone: nothing more is heard of it
        book.release_holder("w1")
        return await waiting

    (reply,), endpoint = play(story)
    assert reply.ok
    assert endpoint.sent == ["a"]


@pytest.mark.parametrize("trouble", [OSError("the scheduler is gone"), TimeoutError()])
def test_where_the_scheduler_stalls_every_process_calls_for_itself(
    play: Callable[..., Any], trouble: Exception
) -> None:
    async def broken(*given: Any) -> bytes:
        raise trouble

    async def story(make: Any, endpoint: Endpoint, book: ClaimBook) -> Any:
        return await asyncio.gather(make("w1", broken).work("a", "b"), make("w2", broken).work("a", "b"))

    replies, endpoint = play(story)
    assert all(reply.ok for both in replies for reply in both)
    assert sorted(endpoint.sent) == ["a", "a", "b", "b"]


def test_a_scheduler_that_did_not_answer_holds_up_no_further_window(play: Callable[..., Any]) -> None:
    """Each question is waited for as long as the patience lasts: one is enough."""
    questions: list[bytes] = []

    async def silent(room: str, keys: bytes, answered: bytes, dropped: bytes) -> bytes:
        questions.append(keys)
        raise TimeoutError

    async def story(make: Any, endpoint: Endpoint, book: ClaimBook) -> Any:
        one = make("w1", silent)
        return [reply for k in range(5) for reply in await one.work(f"row {k}", f"again {k}")]

    replies, _ = play(story)
    assert len(replies) == 10
    assert all(reply.ok for reply in replies)
    assert len(questions) == 1


@pytest.mark.parametrize("outcome", [OutcomeClass.OK, OutcomeClass.TRANSIENT])
def test_what_ended_while_the_scheduler_stalled_is_told_when_it_is_back(
    play: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, outcome: OutcomeClass
) -> None:
    """Else others would wait for it as long as its process lives."""
    monkeypatch.setattr(module, "SULK_S", 0.1)

    async def story(make: Any, endpoint: Endpoint, book: ClaimBook) -> Any:
        plain, unheard = asked(book, "w1"), asyncio.Event()

        async def stalling(room: str, keys: bytes, answered: bytes, dropped: bytes) -> bytes:
            if endpoint.sent and not unheard.is_set():
                if answered or dropped:
                    unheard.set()
                raise TimeoutError
            return await plain(room, keys, answered, dropped)

        one, two = make("w1", stalling), make("w2")
        endpoint.outcome = outcome
        await one.work("a")
        await unheard.wait()
        await one.sharing.announce([b"something else, which takes its time"])
        endpoint.outcome = OutcomeClass.OK
        return await two.work("a")

    (reply,), endpoint = play(story)
    assert reply.ok
    assert len(endpoint.sent) == (1 if outcome is OutcomeClass.OK else 2)


def test_who_waits_is_let_go_when_the_run_stops(play: Callable[..., Any]) -> None:
    async def story(make: Any, endpoint: Endpoint, book: ClaimBook) -> Any:
        one, two = make("w1"), make("w2")
        endpoint.delay_s = 5.0
        slow = asyncio.create_task(one.work("a"))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(two.work("a"))
        await asyncio.sleep(0.05)
        two.control.stop("stopped by the user")
        two.sharing.give_up()
        replies = await asyncio.wait_for(waiting, 2)
        slow.cancel()
        return replies

    (reply,), endpoint = play(story)
    assert reply.outcome is OutcomeClass.STOPPED
    assert endpoint.sent == ["a"]


def test_the_scheduler_is_asked_once_for_a_window_and_not_for_each_call(play: Callable[..., Any]) -> None:
    asks: list[int] = []

    async def story(make: Any, endpoint: Endpoint, book: ClaimBook) -> Any:
        plain = asked(book, "w1")

        async def counted(room: str, keys: bytes, answered: bytes, dropped: bytes) -> bytes:
            asks.append(len(keys))
            return await plain(room, keys, answered, dropped)

        return await make("w1", counted).work(*[f"row {k}" for k in range(256)])

    replies, _ = play(story)
    assert len(replies) == 256
    assert len([size for size in asks if size]) == 1


def test_who_waits_is_told_after_the_store_could_not_be_read_once(
    play: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(make: Any, endpoint: Endpoint, book: ClaimBook) -> Any:
        one, two = make("w1"), make("w2")
        plain, refused = two.journal.refresh, list[str]()

        def refresh() -> None:
            if not refused:
                refused.append("once")
                raise StoreError("the store cannot be read")
            plain()

        monkeypatch.setattr(two.journal, "refresh", refresh)
        request = Request(TEMPLATE, (Message("user", "a"),))
        await one.sharing.announce([request.fingerprint("")])
        waiting = asyncio.create_task(two.work("a"))
        await until_asked(two)
        await one.work("a")
        return await waiting, refused

    ((reply,), refused), endpoint = play(story)
    assert refused
    assert reply.source == "journal"
    assert endpoint.sent == ["a"]


def test_what_could_not_be_flushed_at_once_is_told_to_others_when_it_is(
    play: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(make: Any, endpoint: Endpoint, book: ClaimBook) -> Any:
        one, two = make("w1"), make("w2")
        plain, refused = one.journal.flush, list[str]()

        def flush() -> None:
            if not refused:
                refused.append("once")
                raise StoreError("the store cannot be written")
            plain()

        monkeypatch.setattr(one.journal, "flush", flush)
        first = asyncio.create_task(one.work("a"))
        await until_asked(one)
        second = asyncio.create_task(two.work("a"))
        await first
        return await second, refused

    ((reply,), refused), endpoint = play(story)
    assert refused
    assert reply.source == "journal"
    assert endpoint.sent == ["a"]


def test_what_falls_to_a_run_that_is_stopped_meanwhile_is_free_for_others(play: Callable[..., Any]) -> None:
    """Else others would wait for it as long as its process lives."""

    async def story(make: Any, endpoint: Endpoint, book: ClaimBook) -> Any:
        plain, asks = asked(book, "w2"), list[bytes]()

        async def stopped_on_the_way(room: str, keys: bytes, answered: bytes, dropped: bytes) -> bytes:
            states = await plain(room, keys, answered, dropped)
            asks.append(keys)
            if len(asks) == 2:
                two.control.stop("stopped by the user")
                two.sharing.give_up()
            return states

        one, two, three = make("w1"), make("w2", stopped_on_the_way), make("w3")
        request = Request(TEMPLATE, (Message("user", "a"),))
        await one.sharing.announce([request.fingerprint("")])
        waiting = asyncio.create_task(two.work("a"))
        await until_asked(two)
        one.sharing._mine.clear()  # it is gone: nothing more is heard of it
        book.release_holder("w1")
        await waiting
        return await asyncio.wait_for(three.work("a"), 5)

    (reply,), endpoint = play(story)
    assert reply.ok
    assert endpoint.sent == ["a"]


def test_what_ended_while_the_scheduler_stalled_is_told_though_nothing_more_is_asked(
    play: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SULK_S", 0.1)

    async def story(make: Any, endpoint: Endpoint, book: ClaimBook) -> Any:
        plain, unheard = asked(book, "w1"), list[bytes]()

        async def stalling(room: str, keys: bytes, answered: bytes, dropped: bytes) -> bytes:
            if answered and not unheard:
                unheard.append(answered)
                raise TimeoutError
            return await plain(room, keys, answered, dropped)

        one, two = make("w1", stalling), make("w2")
        await one.work("a")
        return await asyncio.wait_for(two.work("a"), 5)

    (reply,), endpoint = play(story)
    assert reply.source == "journal"
    assert endpoint.sent == ["a"]


def test_what_was_asked_for_is_free_when_who_asked_was_cancelled(
    play: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at a second Ctrl-C: the scheduler may have heard the question."""
    monkeypatch.setattr(module, "SULK_S", 0.1)

    async def story(make: Any, endpoint: Endpoint, book: ClaimBook) -> Any:
        plain, heard = asked(book, "w1"), asyncio.Event()

        async def slow_to_answer(room: str, keys: bytes, answered: bytes, dropped: bytes) -> bytes:
            states = await plain(room, keys, answered, dropped)
            if keys:
                heard.set()
                await asyncio.Event().wait()
            return states

        one, two = make("w1", slow_to_answer), make("w2")
        request = Request(TEMPLATE, (Message("user", "a"),))
        announcing = asyncio.create_task(one.sharing.announce([request.fingerprint("")]))
        await heard.wait()
        announcing.cancel()
        return await asyncio.wait_for(two.work("a"), 5)

    (reply,), endpoint = play(story)
    assert reply.ok
    assert endpoint.sent == ["a"]


async def until_asked(process: Process) -> None:
    """Until the process knows who sends its requests."""
    while not process.sharing._mine and not process.sharing._awaited:  # noqa: ASYNC110
        await asyncio.sleep(0)
