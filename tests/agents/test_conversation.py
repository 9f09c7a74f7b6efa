"""One row's conversation: every class of outcome, and how many calls it may take."""

from __future__ import annotations

import pytest

from apwa_dask.agents.limits import Room
from apwa_dask.models.types import OutcomeClass, Reply, Usage

PASSED_ON = [
    OutcomeClass.REFUSED,
    OutcomeClass.FILTERED,
    OutcomeClass.BAD_INPUT,
    OutcomeClass.TOO_LARGE,
    OutcomeClass.DEADLINE,
    OutcomeClass.TRANSIENT,
    OutcomeClass.TOOL_ERROR,
    OutcomeClass.POISON,
    OutcomeClass.INTERNAL,
]


def test_a_good_answer_is_one_call_with_typed_values(kit):
    conversation = kit.agent().begin({"text": "It broke."})
    assert len(kit.play(conversation, lambda _: kit.ok(kit.good, request_id="r1", model="m-2"))) == 1
    outcome = conversation.outcome
    assert (outcome.outcome, outcome.values) == (OutcomeClass.OK, {"severity": 3, "product": "phone"})
    assert (outcome.calls, outcome.attempts, outcome.usage, outcome.cost_usd) == (1, 1, Usage(10, 5), 0.01)
    assert (outcome.source, outcome.request_id, outcome.model, outcome.raw) == ("live", "r1", "m-2", None)
    assert outcome.prompt_hash == "", "only what failed needs to be found again"
    assert conversation.request is None


@pytest.mark.parametrize("outcome", PASSED_ON)
def test_a_failure_of_the_call_is_the_rows_after_one_call(kit, outcome):
    conversation = kit.agent().begin({"text": "It broke."})
    first = conversation.request
    assert len(kit.play(conversation, lambda _: kit.failed(outcome, "raw words"))) == 1
    assert conversation.outcome.outcome is outcome
    assert (conversation.outcome.message, conversation.outcome.raw) == ("why", "raw words")
    assert conversation.outcome.prompt_hash == first.fingerprint().hex()
    assert not conversation.outcome.outcome.is_pending


@pytest.mark.parametrize("outcome", [OutcomeClass.FATAL, OutcomeClass.STOPPED])
def test_what_stops_the_run_leaves_the_row_pending(kit, outcome):
    conversation = kit.agent().begin({"text": "It broke."})
    conversation.feed(kit.failed(outcome))
    assert conversation.outcome.outcome.is_pending


@pytest.mark.parametrize(
    "text", ["", "  \n", "no JSON", '{"severity":9,"product":null}', "[]", '{"severity":3}extra']
)
def test_an_unusable_answer_is_asked_again_at_most_twice(kit, text):
    conversation = kit.agent(output={"severity": kit.severity["severity"]}).begin({"text": "It broke."})
    replies = iter([text, text, text])
    if text.endswith("extra"):  # JSON in prose is read, not asked again
        assert len(kit.play(conversation, lambda _: kit.ok(next(replies)))) == 1
        return
    assert len(kit.play(conversation, lambda _: kit.ok(next(replies)))) == 3
    outcome = conversation.outcome
    assert (outcome.outcome, outcome.calls, outcome.attempts) == (OutcomeClass.INVALID_OUTPUT, 3, 3)
    assert outcome.usage == Usage(30, 15)
    assert outcome.cost_usd == pytest.approx(0.03)
    assert outcome.message


def test_a_reask_quotes_the_error_and_only_the_last_answer(kit):
    conversation = kit.agent().begin({"text": "It broke."})
    replies = iter(["x" * 100_000, '{"severity":7,"product":null}', kit.good])
    sent = kit.play(conversation, lambda _: kit.ok(next(replies)))
    roles = [[message.role for message in request.tail] for request in sent]
    assert roles == [["user"], ["user", "assistant", "user"], ["user", "assistant", "user"]]
    assert len(sent[1].body()) < len(sent[0].body()) + 1_000
    assert "severity must be from 1 to 5" in sent[2].tail[-1].content
    assert "xxx" not in sent[2].body().decode()
    assert conversation.outcome.ok


def test_an_answer_repaired_by_a_reask_is_billed_for_both_calls(kit):
    conversation = kit.agent().begin({"text": "It broke."})
    replies = iter([kit.ok("no"), kit.ok(kit.good, attempts=3)])
    kit.play(conversation, lambda _: next(replies))
    assert (conversation.outcome.calls, conversation.outcome.attempts) == (2, 4)
    assert conversation.outcome.ok


def test_an_unknown_price_makes_the_cost_unknown(kit):
    conversation = kit.agent().begin({"text": "It broke."})
    replies = iter([kit.ok("no", cost_usd=None), kit.ok(kit.good)])
    kit.play(conversation, lambda _: next(replies))
    assert conversation.outcome.cost_usd is None


def test_a_truncated_answer_gets_one_larger_ceiling_and_then_fails(kit):
    conversation = kit.agent().begin({"text": "It broke."})
    sent = kit.play(conversation, lambda _: kit.failed(OutcomeClass.TRUNCATED, '{"seve'))
    ceilings = [request.template.max_output_tokens for request in sent]
    assert ceilings == [1024, 4096]
    assert conversation.outcome.outcome is OutcomeClass.TRUNCATED
    assert conversation.outcome.raw == '{"seve'


def test_the_larger_ceiling_stays_for_a_reask(kit):
    conversation = kit.agent().begin({"text": "It broke."})
    replies = iter([kit.failed(OutcomeClass.TRUNCATED), kit.ok("no"), kit.ok(kit.good)])
    sent = kit.play(conversation, lambda _: next(replies))
    assert [request.template.max_output_tokens for request in sent] == [1024, 4096, 4096]


def test_the_larger_ceiling_fits_the_models_window(kit):
    conversation = kit.agent(model=kit.small).begin({"text": "It broke."})
    tokens = [
        r.template.max_output_tokens
        for r in kit.play(conversation, lambda _: kit.failed(OutcomeClass.TRUNCATED))
    ]
    assert tokens[0] < tokens[1] < 4096


def test_no_second_call_is_made_where_no_larger_ceiling_fits(kit):
    room = Room(input_tokens=2048, constant_tokens=100, window_tokens=4096)
    assert room.grown(2048, prompt_tokens=2048) is None
    assert room.grown(2048, prompt_tokens=2000) == 2096
    agent = kit.agent(limits={"output_tokens": 2048}, model=kit.small)
    room = agent._terms.room
    most = (room.input_tokens - room.constant_tokens - 4) * 4
    conversation = agent.begin({"text": "x" * most})
    assert len(kit.play(conversation, lambda _: kit.failed(OutcomeClass.TRUNCATED))) == 1
    assert conversation.outcome.outcome is OutcomeClass.TRUNCATED


@pytest.mark.parametrize("declined", [OutcomeClass.BAD_INPUT, OutcomeClass.TOO_LARGE])
def test_an_endpoint_that_declines_the_larger_ceiling_leaves_the_row_truncated(kit, declined):
    conversation = kit.agent().begin({"text": "It broke."})
    replies = iter([kit.failed(OutcomeClass.TRUNCATED, "half"), kit.failed(declined)])
    assert len(kit.play(conversation, lambda _: next(replies))) == 2
    assert conversation.outcome.outcome is OutcomeClass.TRUNCATED


def test_no_script_of_replies_takes_more_than_four_calls(kit):
    texts = [kit.ok("no"), kit.failed(OutcomeClass.TRUNCATED), kit.failed(OutcomeClass.INVALID_OUTPUT)]
    for first in texts:
        for second in texts:
            for third in texts:
                conversation = kit.agent().begin({"text": "It broke."})
                script = iter([first, second, third, kit.ok("no"), kit.ok("no")])
                assert len(kit.play(conversation, lambda _, script=script: next(script))) <= 4


def test_steps_of_the_contract_cap_the_calls(kit):
    conversation = kit.agent(limits={"steps": 1}).begin({"text": "It broke."})
    assert len(kit.play(conversation, lambda _: kit.ok("no"))) == 1
    assert conversation.outcome.outcome is OutcomeClass.INVALID_OUTPUT
    assert "1 steps" in conversation.outcome.message


def test_the_units_cost_and_seconds_are_not_passed_by_another_call(kit):
    costly = kit.agent(limits={"cost_usd": 0.01}).begin({"text": "It broke."})
    assert len(kit.play(costly, lambda _: kit.ok("no"))) == 1
    assert costly.outcome.outcome is OutcomeClass.INVALID_OUTPUT
    slow = kit.agent(limits={"seconds": 5}).begin({"text": "It broke."})
    assert len(kit.play(slow, lambda _: kit.ok("no", latency_s=6.0))) == 1
    assert slow.outcome.outcome is OutcomeClass.DEADLINE


def test_a_prompt_past_the_window_makes_no_call(kit):
    conversation = kit.agent(model=kit.small).begin({"text": "word " * 10_000})
    assert conversation.request is None
    assert conversation.outcome.outcome is OutcomeClass.TOO_LARGE
    assert (conversation.outcome.calls, conversation.outcome.source) == (0, "none")


def test_a_cell_of_ten_megabytes_is_one_rows_failure_without_a_call(kit):
    conversation = kit.agent().begin({"text": "ab \ud800" * 2_500_000})
    assert conversation.outcome.outcome is OutcomeClass.TOO_LARGE
    assert len(conversation.outcome.message) < 200


def test_the_contracts_input_cap_makes_no_call(kit):
    conversation = kit.agent(limits={"input_tokens": 300}).begin({"text": "word " * 1_000})
    assert conversation.outcome.outcome is OutcomeClass.TOO_LARGE


def test_a_flat_map_answers_with_rows_and_with_none(kit):
    agent = kit.agent(kit.flat_map())
    for rows in ([kit.good, {"severity": 1, "product": None}], []):
        conversation = agent.begin({"text": "It broke."})
        conversation.feed(kit.ok({"rows": rows}))
        assert (conversation.outcome.rows, conversation.outcome.values) == (rows, None)


def test_too_many_rows_are_asked_again_never_cut(kit):
    conversation = kit.agent(kit.flat_map(max_rows=1)).begin({"text": "It broke."})
    replies = iter([{"rows": [kit.good, kit.good]}, {"rows": [kit.good]}])
    assert len(kit.play(conversation, lambda _: kit.ok(next(replies)))) == 2
    assert conversation.outcome.rows == [kit.good]


def test_a_filter_answers_keep(kit):
    conversation = kit.agent(kit.filter()).begin({"text": "It broke."})
    conversation.feed(kit.ok({"keep": False}))
    assert conversation.outcome.values == {"keep": False}


def test_a_filter_at_a_small_model_asks_yes_or_no_and_gives_keep(kit):
    examples = [{"inputs": {"text": "Fine."}, "output": {"keep": False}}]
    agent = kit.agent(kit.filter(examples=examples), kit.small)
    assert agent.template.schema["properties"]["answer"]["enum"] == ["yes", "no"]
    assert agent.template.messages[-1].content == '{"answer":"no"}'
    conversation = agent.begin({"text": "It broke."})
    conversation.feed(kit.ok({"answer": "yes"}))
    assert conversation.outcome.values == {"keep": True}
    (pack,) = kit.agent(kit.filter(unit="pack(2)"), kit.small).begin_many([{"text": "a"}, {"text": "b"}])
    pack.feed(kit.ok({"rows": [{"row": 1, "answer": "yes"}, {"row": 2, "answer": "no"}]}))
    assert [pack.outcomes[n].values for n in (0, 1)] == [{"keep": True}, {"keep": False}]


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["journal"], "journal"),
        (["shared"], "shared"),
        (["journal", "live"], "live"),
        (["live", "journal"], "live"),
    ],
)
def test_the_source_is_live_as_soon_as_one_call_was(kit, sources, expected):
    conversation = kit.agent().begin({"text": "It broke."})
    for n, source in enumerate(sources, start=1):
        conversation.feed(kit.ok(kit.good if n == len(sources) else "no", source=source))
    assert conversation.outcome.source == expected


def test_giving_up_ends_an_open_conversation_and_leaves_an_ended_one(kit):
    conversation = kit.agent().begin({"text": "It broke."})
    conversation.give_up(OutcomeClass.DEADLINE, "late")
    assert (conversation.outcome.outcome, conversation.outcome.message) == (OutcomeClass.DEADLINE, "late")
    conversation.give_up(OutcomeClass.INTERNAL, "later")
    assert conversation.outcome.outcome is OutcomeClass.DEADLINE


def test_a_reply_that_nobody_asked_for_is_an_error_of_the_driver(kit):
    conversation = kit.agent().begin({"text": "It broke."})
    conversation.feed(kit.ok(kit.good))
    with pytest.raises(RuntimeError):
        conversation.feed(Reply(OutcomeClass.OK, "{}"))
