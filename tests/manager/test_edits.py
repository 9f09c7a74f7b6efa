"""A change to a plan: the rest stays as it was, with its ids and settings; small models choose among few."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import Any

import jsonschema
import pytest

from apwa_dask.errors import PlanError, RefusalError
from apwa_dask.manager import Drafted, Seen, edit_async, revise_async
from apwa_dask.manager.as_answer import as_answer
from apwa_dask.manager.wire import plan_data
from apwa_dask.plans.loading import load
from apwa_dask.plans.plan import Plan

PLAN = """\
query: Which reviews are rude, by city?
sources: [reviews]
steps:
  - {op: where, id: many_stars, condition: stars > 2}
  - op: filter
    id: rude
    contract:
      instruction: The review is rude
      inputs: [text]
      limits: {seconds: 9.5}
      examples: [{inputs: {text: You fool}, output: {keep: true}}]
  - op: aggregate
    id: counts
    by: [city]
    aggregates: {n: {fn: count}}
"""


def edited(kit: Any, answers: Any, *, model: Any = None, change: str = "Only Oslo.") -> tuple[Drafted, Any]:
    planner = kit.Planner(answers)
    model = model or kit.strong
    drafted = asyncio.run(edit_async(Plan.from_yaml(PLAN), change, kit.catalog(), model, planner))
    if not callable(answers):
        assert len(planner.requests) == len(answers), "all answers are used"
        for request, answer in zip(planner.requests, answers, strict=True):
            jsonschema.validate(answer, request.template.schema)
    return drafted, planner


def written(kit: Any) -> dict[str, Any]:
    return as_answer(Plan.from_yaml(PLAN), set(kit.frame.columns))


def test_only_the_changed_step_differs_and_settings_stay(kit: Any) -> None:
    answer = written(kit)
    answer["steps"][0]["condition"] = "stars > 2 AND city = 'Oslo'"
    answer["steps"][0]["reason"] = "the change asks for Oslo"
    drafted, planner = edited(kit, [answer])
    changes = {(c.kind, c.step, c.field) for c in Plan.from_yaml(PLAN).diff(drafted.plan)}
    assert changes == {("changed", "many_stars", "condition"), ("changed", "many_stars", "reason")}
    rude = drafted.plan.step("rude").contract
    assert (rude.limits.seconds, len(rude.examples)) == (9.5, 1)
    told = kit.body(planner.requests[0])
    assert "Only Oslo." in told
    assert "stars > 2" in told
    assert drafted.plan.query == "Which reviews are rude, by city?"


def test_a_new_step_gets_a_name_of_its_own_and_the_others_keep_theirs(kit: Any) -> None:
    answer = written(kit)
    new = {"reason": "r", "op": "where", "input": "reviews", "condition": "city = 'Oslo'"}
    steps = answer["steps"]
    answer["steps"] = [
        new,
        {**steps[0], "input": "#1"},
        {**steps[1], "input": "#2"},
        {**steps[2], "input": "#3"},
    ]
    drafted, _ = edited(kit, [answer])
    assert [step.id for step in drafted.plan.steps] == ["where_1", "many_stars", "rude", "counts"]
    assert [step.input for step in drafted.plan.steps] == ["reviews", "where_1", "many_stars", "rude"]
    assert drafted.plan.step("rude").contract == Plan.from_yaml(PLAN).step("rude").contract


def test_a_changed_instruction_keeps_limits_and_examples_of_the_same_shape(kit: Any) -> None:
    answer = written(kit)
    answer["steps"][1]["instruction"] = "The review is very rude"
    drafted, _ = edited(kit, [answer])
    contract = drafted.plan.step("rude").contract
    assert contract.instruction == "The review is very rude"
    assert (contract.limits.seconds, len(contract.examples)) == (9.5, 1)


def test_a_wrong_edit_is_mended_and_one_never_mended_is_an_error(kit: Any) -> None:
    wrong = written(kit)
    wrong["steps"][0]["condition"] = "star > 2"
    drafted, planner = edited(kit, [wrong, written(kit)])
    assert (drafted.rounds, len(planner.requests)) == (1, 2)
    assert not Plan.from_yaml(PLAN).diff(drafted.plan)
    with pytest.raises(PlanError, match="after 2 repair rounds"):
        edited(kit, lambda request: wrong)


def test_what_the_tables_cannot_give_is_refused(kit: Any) -> None:
    with pytest.raises(RefusalError, match="cannot answer"):
        edited(kit, [{"refusal": "There is no salary.", "steps": []}])


@pytest.mark.parametrize("change", ["", " \n", "x" * 20_001])
def test_a_change_of_no_or_too_many_words_makes_no_call(kit: Any, change: str) -> None:
    planner = kit.Planner([])
    with pytest.raises(PlanError, match="a change has 1 to"):
        asyncio.run(edit_async(Plan.from_yaml(PLAN), change, kit.catalog(), kit.strong, planner))
    assert not planner.requests


def test_every_kept_plan_reads_back_from_its_own_answer(drafts: Any) -> None:
    for name, answer in drafts.items():
        if not answer["steps"]:
            continue
        read = [step.get(key) for step in answer["steps"] for key in ("input", "right")]
        tables = list(dict.fromkeys(table for table in read if table and not table.startswith("#")))
        plan = load(plan_data(answer, "q", tables))
        again = load(plan_data(json.loads(json.dumps(as_answer(plan, set()))), "q", tables))
        assert [s.model_copy(update={"id": "x"}) for s in again.steps] == [
            s.model_copy(update={"id": "x"}) for s in plan.steps
        ], name


# --- small models


def small(kit: Any, change: str, *answers: Any) -> Plan:
    return edited(kit, answers, model=kit.small, change=change)[0].plan


def test_small_fewer_rows_by_a_column(kit: Any) -> None:
    plan = small(
        kit,
        "Only the reviews from Oslo.",
        {"kind": "keep by column"},
        {"keep": [{"column": "city", "is": "equal to", "value": "Oslo"}]},
    )
    assert [step.op for step in plan.steps] == ["where", "where", "filter", "aggregate"]
    assert plan.steps[0].condition == "\"city\" = 'Oslo'"
    assert [step.id for step in plan.steps[1:]] == ["many_stars", "rude", "counts"]
    assert plan.step("rude").contract.limits.seconds == 9.5


def test_small_other_words_for_a_step(kit: Any) -> None:
    plan = small(
        kit,
        "It must be very rude.",
        {"kind": "instruction"},
        {"step": "rude", "task": "The review is very rude"},
    )
    (change,) = Plan.from_yaml(PLAN).diff(plan)
    assert (change.step, change.field) == ("rude", "contract.instruction")


def test_small_a_step_goes_and_only_one_that_the_rest_can_do_without(kit: Any) -> None:
    planner = kit.Planner([{"kind": "remove"}, {"step": "many_stars"}])
    drafted = asyncio.run(edit_async(Plan.from_yaml(PLAN), "All stars.", kit.catalog(), kit.small, planner))
    assert [step.id for step in drafted.plan.steps] == ["rude", "counts"]
    assert drafted.plan.step("rude").input == "reviews"
    assert planner.requests[1].template.schema["properties"]["step"]["enum"] == [
        "many_stars",
        "rude",
        "counts",
    ]


def test_small_the_first_few_in_order(kit: Any) -> None:
    plan = small(
        kit,
        "Only the city with the most.",
        {"kind": "order"},
        {"column": "n", "order": "largest", "first": 1},
    )
    assert [step.op for step in plan.steps[-2:]] == ["sort", "limit"]


def test_small_no_fit_change_is_refused(kit: Any) -> None:
    with pytest.raises(RefusalError, match="cannot answer"):
        small(kit, "Send it by mail.", {"kind": "none of these"})


# --- the size of what is told


@pytest.mark.parametrize("style", ["strong", "small"])
def test_the_prompt_of_an_edit_does_not_grow_with_the_rows(kit: Any, style: str) -> None:
    bodies = []
    for rows in (10, 10_000_000):
        said = {"strong": written(kit), "small": {"kind": "none of these"}}[style]
        planner = kit.Planner([said])
        catalog = kit.catalog(rows=rows)
        with contextlib.suppress(RefusalError):
            asyncio.run(edit_async(Plan.from_yaml(PLAN), "Less.", catalog, getattr(kit, style), planner))
        bodies.append(re.sub(rb"\d+(e\+\d+)?", b"N", planner.requests[0].body()))
    assert bodies[0] == bodies[1]


def looked_at(kit: Any, rows: int) -> Seen:
    (schema, profile) = kit.catalog(samples=0, rows=rows)["reviews"]
    return Seen("rude", schema, profile, 2 * rows, rows, {"refused": rows // 10})


@pytest.mark.parametrize("rows", [10, 10_000_000])
def test_a_revision_is_told_counts_and_classes_and_no_row(kit: Any, rows: int) -> None:
    rest = {
        "refusal": None,
        "steps": [
            {"reason": "", "op": "aggregate", "input": "rude", "by": [], "aggregates": [
                {"name": "n", "fn": "count", "column": None}]}
        ],
    }  # fmt: skip
    planner = kit.Planner([rest])
    drafting = revise_async(
        Plan.from_yaml(PLAN), looked_at(kit, rows), kit.catalog(samples=0), kit.strong, planner
    )
    new = asyncio.run(drafting).plan
    assert [step.id for step in new.steps] == ["many_stars", "rude", "counts"]
    assert new.steps[:2] == Plan.from_yaml(PLAN).steps[:2]
    assert new.step("counts").by == ()
    told = planner.requests[0].tail[0].content
    assert "(50%). Failed rows: refused" in told
    assert "leaks" not in told
    size = len(re.sub(r"\d+(e\+\d+)?", "N", told))
    assert size < 4_000


def test_a_small_model_may_leave_the_rest_as_it_is_or_make_one_change(kit: Any) -> None:
    plan = Plan.from_yaml(PLAN)
    for answers, ops in (
        ([{"kind": "none of these"}], ["where", "filter", "aggregate"]),
        (
            [{"kind": "order"}, {"column": "n", "order": "largest", "first": 1}],
            ["where", "filter", "aggregate", "sort", "limit"],
        ),
    ):
        planner = kit.Planner(answers)
        new = asyncio.run(
            revise_async(plan, looked_at(kit, 10), kit.catalog(samples=0), kit.small, planner)
        ).plan
        assert [step.op for step in new.steps] == ops
        assert "Failed rows: refused" in kit.body(planner.requests[0])


def test_with_nothing_left_no_call_is_made(kit: Any) -> None:
    planner = kit.Planner([])
    seen = looked_at(kit, 10)
    seen = Seen("counts", seen.schema, seen.profile, 1, 1)
    with pytest.raises(PlanError, match="nothing comes after counts"):
        asyncio.run(revise_async(Plan.from_yaml(PLAN), seen, kit.catalog(), kit.strong, planner))
    assert not planner.requests
