"""The APWA workloads at a tiny scale: what each client is billed for, and how each that cannot finish ends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dask
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from apwa_dask.testing import ScriptedServer  # noqa: E402
from benchmarks.apwa.conversations import Attempt, one_agent, one_chat  # noqa: E402
from benchmarks.apwa.extraction import TOPICS, document, facts  # noqa: E402
from benchmarks.apwa.jobs import WHOLE, WINDOW_TOKENS, Job, Verdict, Workload  # noqa: E402
from benchmarks.apwa.measures import Measured, keep, kept  # noqa: E402
from benchmarks.apwa.naive import naive_dask  # noqa: E402
from benchmarks.apwa.redaction import record  # noqa: E402
from benchmarks.apwa.scripted import script_for  # noqa: E402
from benchmarks.apwa.summaries import PROMPT_TOKENS, merged, read_summary, summary_of  # noqa: E402
from benchmarks.apwa.tables import report  # noqa: E402
from benchmarks.apwa.workloads import WORKLOADS  # noqa: E402

RECORDS, DOCUMENTS, TOKENS = 40, 3, 60_000
SIZES = {"redaction": RECORDS, "schema": DOCUMENTS, "summaries": TOKENS}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "benchmark")


@contextmanager
def asked(
    name: str, folder: Path, *, window_tokens: int = WINDOW_TOKENS, call_limit: int = 1_000
) -> Iterator[tuple[Job, Workload, ScriptedServer]]:
    """A job, its workload and the scripted model that answers it."""
    workload = WORKLOADS[name]
    workload.write(folder, SIZES[name])
    with ScriptedServer(script_for(workload, window_tokens, latency_s=0.0), in_process=True) as server:
        yield Job(name, SIZES[name], str(folder), server.base_url, 8, call_limit), workload, server


def succeeded(server: ScriptedServer) -> int:
    return server.stats().by_status.get("200", 0)


# -- the engine


def test_every_record_is_redacted_by_one_call_and_nothing_leaks(tmp_path: Path) -> None:
    with asked("redaction", tmp_path) as (job, workload, server):
        answers = dict(workload.run(job, {"scheduler": "threads"}, str(tmp_path / "store")))
        verdict = workload.judged(answers, RECORDS)
        assert (verdict.wanted, verdict.right, verdict.leaked) == (RECORDS, RECORDS, 0)
        assert succeeded(server) == RECORDS


def test_each_topic_costs_one_proposal_and_each_document_one_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = {
        name: TOPICS[name] for name in ("invoices", "recipes", "repairs")
    }  # dates, labels, flags, numbers
    monkeypatch.setattr("benchmarks.apwa.extraction.TOPICS", topics)
    with asked("schema", tmp_path) as (job, workload, server):
        answers = dict(workload.run(job, {"scheduler": "threads"}, str(tmp_path / "store")))
        verdict = workload.judged(answers, DOCUMENTS)
        assert (verdict.wanted, verdict.right) == (DOCUMENTS * len(topics), DOCUMENTS * len(topics))
        assert succeeded(server) == len(topics) * (1 + DOCUMENTS)


def test_every_section_comes_through_a_tree_of_bounded_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.apwa.summaries.PROMPT_TOKENS", 4_500)
    with asked("summaries", tmp_path) as (job, workload, server):
        answers = dict(workload.run(job, {"scheduler": "threads"}, str(tmp_path / "store")))
        verdict = workload.judged(answers, TOKENS)
        pieces = sum(1 for _ in workload.items(tmp_path))
        assert verdict.wanted == verdict.right == TOKENS // 250
        assert verdict.depth > 2, "pieces, notes, answer"
        assert server.stats().longest_prompt_tokens <= 4_500 < PROMPT_TOKENS
        assert pieces < succeeded(server) < 2 * pieces, (
            "the tree above the pieces is smaller than their number"
        )


# -- the others, where all fits


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize(
    "client",
    [
        one_agent,
        lambda job, workload, items: one_chat(job, workload, items, forgets=False),
        lambda job, workload, items: one_chat(job, workload, items, forgets=True),
    ],
    ids=["one agent", "one chat", "one chat that forgets"],
)
def test_a_conversation_that_fits_the_window_is_right(
    name: str, client: Callable[..., Attempt], tmp_path: Path
) -> None:
    with asked(name, tmp_path) as (job, workload, _server):
        attempt = client(job, workload, workload.items(tmp_path))
        verdict = workload.judged(attempt.answers, SIZES[name])
        assert attempt.ending == ""
        assert (verdict.right, verdict.leaked) == (verdict.wanted, 0)


@pytest.mark.parametrize("name", WORKLOADS)
def test_naive_dask_asks_once_about_each_item(name: str, tmp_path: Path) -> None:
    with asked(name, tmp_path) as (job, workload, server):
        items = pd.DataFrame(
            [(each.key, each.text) for each in workload.items(tmp_path)], columns=["key", "text"]
        )
        with dask.config.set(scheduler="threads"):
            attempt = naive_dask(job, workload, items)
        verdict = workload.judged(attempt.answers, SIZES[name])
        assert (verdict.right, attempt.ending) == (verdict.wanted, "")
        assert succeeded(server) == len(items) + workload.whole


# -- how they end where it does not


def test_an_agent_that_reads_more_than_its_window_ends_without_an_answer(tmp_path: Path) -> None:
    with asked("summaries", tmp_path, window_tokens=20_000) as (job, workload, server):
        attempt = one_agent(job, workload, workload.items(tmp_path))
        assert "400 context_length_exceeded: This model's maximum context length is 20000" in attempt.ending
        assert attempt.answers == {}
        assert 0 < succeeded(server) <= 3, "pages of 8,000 tokens"
        assert server.stats().billed_prompt_tokens > 0, "what was read was paid for"


def test_a_chat_that_is_full_ends_and_keeps_what_was_answered(tmp_path: Path) -> None:
    with asked("redaction", tmp_path, window_tokens=2_000) as (job, workload, _server):
        attempt = one_chat(job, workload, workload.items(tmp_path), forgets=False)
        verdict = workload.judged(attempt.answers, RECORDS)
        assert "context_length_exceeded" in attempt.ending
        assert 0 < verdict.right == attempt.items_sent < RECORDS
        assert verdict.missing == RECORDS - verdict.right


def test_a_chat_is_billed_for_its_history_at_every_turn(tmp_path: Path) -> None:
    with asked("redaction", tmp_path) as (job, workload, server):
        attempt = one_chat(job, workload, workload.items(tmp_path), forgets=False)
        chat = server.stats()
        server.reset()
        dict(workload.run(job, {"scheduler": "threads"}, str(tmp_path / "store")))
        assert chat.billed_prompt_tokens > 10 * server.stats().billed_prompt_tokens
        assert 0 < attempt.cached_tokens < chat.billed_prompt_tokens


def test_a_chat_that_forgets_goes_on_with_half_of_its_history(tmp_path: Path) -> None:
    with asked("redaction", tmp_path, window_tokens=2_000) as (job, workload, server):
        attempt = one_chat(job, workload, workload.items(tmp_path), forgets=True)
        stats = server.stats()
        assert (attempt.ending, len(attempt.answers)) == ("", RECORDS)
        assert stats.longest_prompt_tokens <= 2_000
        assert stats.by_status["400"] > 0, "each time it was full"


def test_a_chat_that_forgets_is_ended_at_the_limit_of_calls(tmp_path: Path) -> None:
    with asked("redaction", tmp_path, call_limit=7) as (job, workload, _server):
        attempt = one_chat(job, workload, workload.items(tmp_path), forgets=True)
        assert attempt.ending == "ended by us after 7 calls"
        assert len(attempt.answers) == 7


def test_naive_dask_pays_for_every_piece_before_its_one_last_prompt_is_too_long(tmp_path: Path) -> None:
    with asked("summaries", tmp_path, window_tokens=3_500) as (job, workload, server):
        items = pd.DataFrame(
            [(each.key, each.text) for each in workload.items(tmp_path)], columns=["key", "text"]
        )
        with dask.config.set(scheduler="threads"):
            attempt = naive_dask(job, workload, items)
        assert "context_length_exceeded" in attempt.ending
        assert WHOLE not in attempt.answers
        assert succeeded(server) == len(items)


# -- the data and the judges


def test_records_hold_what_must_not_leak_and_their_gold_does_not() -> None:
    for number in range(200):
        one = record(number)
        assert len(one.secrets) >= 2
        assert all(secret in one.text and secret not in one.redacted for secret in one.secrets)


def test_a_leak_and_a_lost_row_are_seen() -> None:
    workload = WORKLOADS["redaction"]
    answers = {"0": {"redacted": record(0).text}, "1": workload.gold("1")}
    verdict = workload.judged(answers, 3)
    assert (verdict.right, verdict.wrong, verdict.missing, verdict.leaked) == (1, 1, 1, 1)


def test_documents_state_their_facts() -> None:
    for topic in TOPICS:
        text = document(f"{topic}-7")
        assert all(f"The {name} of it is stated as " in text for name in facts(f"{topic}-7"))


def test_a_summary_tells_what_it_covers_and_how_deep_it_is() -> None:
    lower = [summary_of(["[section 0] a [section 1] b"]), summary_of(["[section 2] c [section 5] d"])]
    covered, level = read_summary(summary_of(lower))
    assert (covered, level) == ([(0, 2), (5, 5)], 2)
    assert merged([(3, 4), (0, 2), (2, 3)]) == [(0, 4)]


def test_a_section_that_was_lost_on_the_way_is_missing() -> None:
    said = {WHOLE: {"summary": summary_of(["[section 0] [section 2]"])}}
    verdict = WORKLOADS["summaries"].judged(said, 1_000)
    assert (verdict.wanted, verdict.right, verdict.missing) == (4, 2, 2)


def test_tables_tell_how_a_client_ended_and_are_printed_again_from_a_file(tmp_path: Path) -> None:
    ended = "400 context_length_exceeded"
    engine = measured("engine", Verdict(10, 10, 0, 0), cost_usd=0.01)
    chat = measured("one chat", Verdict(10, 5, 0, 5), cost_usd=0.05, ending=ended)
    keep(tmp_path / "found.json", [engine, chat])
    assert kept(tmp_path / "found.json") == [engine, chat]
    said = report([engine, chat])
    assert "| one chat | 5 | 0 | 5 | 0 | 10 |" in said, "ten times the engine's price for each right item"
    assert f"**one chat**: `{ended}` after 5 items sent, 5 of 10 right, $0.05 spent" in said


def measured(client: str, verdict: Verdict, cost_usd: float, ending: str = "") -> Measured:
    return Measured(
        workload="redaction",
        size=10,
        client=client,
        verdict=verdict,
        calls=10,
        refused=0,
        longest_prompt_tokens=100,
        prompt_tokens=1_000,
        cached_tokens=0,
        completion_tokens=100,
        cost_usd=cost_usd,
        peak_mib=200.0,
        wall_s=1.0,
        cpu_s=1.0,
        items_sent=verdict.right,
        ending=ending,
    )
