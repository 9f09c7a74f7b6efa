"""What changed between two plans: by step and field, nothing missed, nothing that could draw or run."""

from __future__ import annotations

import pytest

from apwa_dask.plans.diff import Change
from apwa_dask.plans.plan import Plan

BASE = """\
query: Which are complaints?
sources: [reviews]
steps:
  - {op: where, id: few, condition: stars < 3}
  - op: map
    id: topic
    contract: {instruction: Say the topic., inputs: [text], output: {topic: {labels: {a: one, b: two}}}}
  - {op: limit, id: first, n: 5}
"""


def changed(*edits: tuple[str, str]) -> tuple[Plan, Plan]:
    text = BASE
    for before, after in edits:
        assert before in text
        text = text.replace(before, after)
    return Plan.from_yaml(BASE), Plan.from_yaml(text)


def test_equal_plans_have_no_difference() -> None:
    old, new = changed()
    assert not old.diff(new)
    assert len(old.diff(new)) == 0
    assert str(old.diff(new)) == "no change"


@pytest.mark.parametrize(
    ("edit", "change"),
    [
        (("stars < 3", "stars < 2"), Change("changed", "few", "condition", "stars < 3", "stars < 2")),
        (("n: 5", "n: 6"), Change("changed", "first", "n", 5, 6)),
        (
            ("Say the topic.", "Name it."),
            Change("changed", "topic", "contract.instruction", "Say the topic.", "Name it."),
        ),
        (
            ("b: two", "b: 2nd"),
            Change("changed", "topic", "contract.output.topic.labels.b", "two", "2nd"),
        ),
        (
            ("b: two", "b: two, c: three"),
            Change("added", "topic", "contract.output.topic.labels.c", None, "three"),
        ),
        ((", b: two", ""), Change("removed", "topic", "contract.output.topic.labels.b", "two", None)),
        (
            ("Which are complaints?", "Which are rude?"),
            Change("changed", "", "query", "Which are complaints?", "Which are rude?"),
        ),
        (
            ("a: one, b: two", "b: two, a: one"),
            Change("changed", "topic", "contract.output.topic.labels", ["a", "b"], ["b", "a"]),
        ),
    ],
    ids=lambda value: getattr(value, "field", None) or "edit",
)
def test_each_change_is_named_by_step_and_field(edit: tuple[str, str], change: Change) -> None:
    old, new = changed(edit)
    assert tuple(old.diff(new)) == (change,)


def test_steps_that_come_and_go_are_told_in_words() -> None:
    old, new = changed(("{op: limit, id: first, n: 5}", "{op: sort, id: order, by: [{column: stars}]}"))
    removed, added = old.diff(new)
    assert (removed.kind, removed.step, added.kind, added.step) == ("removed", "first", "added", "order")
    assert "the first 5 rows" in str(removed)
    assert str(added).startswith("+ order: sort topic by stars")
    assert old.diff(new).steps == ("first", "order")


def test_a_step_that_is_put_elsewhere_is_moved() -> None:
    old = Plan.from_yaml(
        "sources: [t]\nsteps: [{op: limit, id: a, n: 1}, {op: limit, id: b, n: 2, input: t}]"
    )
    new = old.model_copy(update={"steps": old.steps[::-1]})
    assert {(change.kind, change.step) for change in old.diff(new)} == {("moved", "a"), ("moved", "b")}
    assert "^ b: now comes first, not after a" in str(old.diff(new))


def test_a_new_step_before_others_moves_none_of_them() -> None:
    old, new = changed(("steps:\n", "steps:\n  - {op: distinct, id: once}\n"))
    kinds = [(change.kind, change.step, change.field) for change in old.diff(new)]
    assert kinds == [("added", "once", ""), ("changed", "few", "input")]


def test_text_and_html_show_words_and_never_act_on_them() -> None:
    old, new = changed(("stars < 3", "text <> '<script>alert(1)</script>'"))
    markup = old.diff(new)._repr_html_()
    assert "<script" not in markup
    assert "&lt;script&gt;" in markup
    assert "<del>stars &lt; 3</del>" in markup
    odd = old.model_copy(update={"query": "a\x1b[2J\nb"})
    assert "\x1b" not in old.diff(odd).text()
    assert len(old.diff(odd).text().splitlines()) == 1
