"""The tree of a reduce: every item once, in order, in prompts that fit, the same tree each time."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apwa_dask.agents.clean import BadInput
from apwa_dask.agents.reduce import ReduceAgent, item_tokens, pack_items, reduce_template, render_items
from apwa_dask.errors import PlanError
from apwa_dask.models.model import Model
from apwa_dask.models.types import OutcomeClass

items = st.lists(
    st.text(st.characters(codec="utf-8"), max_size=80) | st.fixed_dictionaries({"text": st.text()}),
    max_size=30,
)


ROWS = 1_200


def run_tree(kit, agent, rows, answer):
    """The tree as an engine would run it; the outcome of the root, and the prompts of each level."""
    level = [agent.item(row) for row in rows]
    levels = []
    while True:
        packs = agent.packs(level)
        node = "answer" if len(packs) == 1 else "notes"
        conversations = [agent.begin(pack, node) for pack in packs]
        levels.append(
            [request for c in conversations for request in kit.play(c, lambda r: kit.ok(answer(r)))]
        )
        if node == "answer":
            return conversations[0].outcome, levels
        level = [c.outcome.values["notes"] for c in conversations]


@given(items, st.integers(0, 60), st.integers(1, 3))
def test_packing_uses_every_item_once_in_order(given_items, budget, at_least):
    packs = pack_items(given_items, budget, at_least=at_least)
    assert [item for pack in packs for item in pack] == given_items
    assert all(pack for pack in packs)
    for pack in packs[:-1]:
        assert len(pack) >= at_least
    for pack in packs:
        if len(pack) > at_least:
            assert sum(map(item_tokens, pack)) <= budget


def test_a_group_that_fits_one_prompt_goes_straight_to_the_answer(kit):
    agent = ReduceAgent(kit.reduce(), kit.model, kit.table)
    outcome, levels = run_tree(kit, agent, [{"text": "a"}, {"text": "b"}], lambda _: {"summary": "ab"})
    assert [len(level) for level in levels] == [1]
    assert outcome.values == {"summary": "ab"}


def test_a_large_group_becomes_notes_and_every_row_is_read_once(kit):
    agent = ReduceAgent(kit.reduce(), kit.small, kit.table)
    rows = [{"text": f"complaint-{n:04d} " + "word " * 30} for n in range(ROWS)]

    def answer(request):
        return (
            {"summary": "s"} if "summary" in request.template.schema["properties"] else {"notes": "n" * 1_000}
        )

    outcome, levels = run_tree(kit, agent, rows, answer)
    assert outcome.ok
    assert len(levels) >= 3
    leaves = "".join(request.body().decode() for request in levels[0])
    assert all(leaves.count(f"complaint-{n:04d}") == 1 for n in range(ROWS))
    for level in levels:
        assert all(len(request.body()) / 4 < 4096 for request in level)
    again = run_tree(kit, agent, rows, answer)[1]
    assert [[r.body() for r in level] for level in again] == [[r.body() for r in level] for level in levels]


@pytest.mark.parametrize("window", [600, 4_096, None])
def test_notes_of_the_longest_kind_still_shrink_level_by_level(kit, window):
    agent = ReduceAgent(kit.reduce(), Model("m", context_tokens=window), kit.table)
    count = 64
    while count > 1:
        packs = agent.packs(["n" * 4 * (agent.template("notes").max_output_tokens or 1)] * count)
        assert len(packs) <= count // 2
        count = len(packs)


def test_rows_are_json_lines_and_notes_have_headings(kit):
    message = render_items(
        [{"text": 'a"]\n["b', "stars": 2.0}, {"text": None, "stars": 3}, "first {part}", "second"]
    )
    table, one, two = message.content.split("\n\n")
    assert [json.loads(line) for line in table.split("\n")] == [["text", "stars"], ['a"]\n["b', 2], [None, 3]]
    assert (one, two) == ("Notes 1:\nfirst {part}", "Notes 2:\nsecond")


def test_rows_without_input_are_no_items(kit):
    agent = ReduceAgent(kit.reduce(), kit.model, kit.table)
    assert isinstance(agent.item({"text": None}), BadInput)
    outcome = agent.begin([], "answer").outcome
    assert (outcome.outcome, outcome.calls) == (OutcomeClass.BAD_INPUT, 0)


def test_an_item_too_large_for_any_prompt_makes_no_call(kit):
    agent = ReduceAgent(kit.reduce(), kit.small, kit.table)
    (pack,) = agent.packs([{"text": "word " * 20_000}])
    outcome = agent.begin(pack, "answer").outcome
    assert (outcome.outcome, outcome.calls) == (OutcomeClass.TOO_LARGE, 0)


def test_images_are_not_reduced(kit):
    agent = ReduceAgent(kit.reduce(inputs=["photo"]), kit.model, kit.table)
    assert "map step" in agent.item({"photo": b"\x89PNG\r\n\x1a\n\x00"}).message


def test_only_inputs_reach_the_prompt(kit):
    agent = ReduceAgent(kit.reduce(), kit.model, kit.table)
    assert agent.item({"text": "a", "title": "SECRET"}) == {"text": "a"}


def test_examples_of_a_reduce_may_hold_several_rows(kit):
    examples = [{"inputs": {"text": ["a", "b"]}, "output": {"summary": "ab"}}]
    messages = reduce_template(kit.reduce(examples=examples), kit.model, kit.table).messages
    assert [message.content for message in messages[1:]] == ['["text"]\n["a"]\n["b"]', '{"summary":"ab"}']
    bad = [{"inputs": {"text": ["a", "b"], "title": ["c"]}, "output": {"summary": "ab"}}]
    with pytest.raises(PlanError, match="lengths"):
        reduce_template(kit.reduce(inputs=["text", "title"], examples=bad), kit.model, kit.table)


def test_a_reduce_has_an_agent_of_its_own_and_no_tools(kit):
    with pytest.raises(PlanError, match="ReduceAgent"):
        kit.agent(kit.reduce())
    with pytest.raises(PlanError, match="tools"):
        ReduceAgent(kit.reduce(tools=["lookup"]), kit.model, kit.table)
