"""From an output row back to its source rows, and all that is known of one row."""

from __future__ import annotations

import dask.dataframe as dd
import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.agents import capabilities
from apwa_dask.errors import RunError
from apwa_dask.testing import Fault, Rule, Script

HOSTILE = "<script>alert(1)</script> \x1b[31m"


def origins(run: apwa.Run, row: str | int) -> list[tuple[str, int]]:
    frame = run.lineage(row).origins
    return sorted(zip(frame["source"], frame["row"], strict=True))


@pytest.fixture
def csvs(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, first in (("a.csv", 0), ("b.csv", 5)):
        rows = pd.DataFrame(
            {"text": [f"note {k}" for k in range(first, first + 5)], "k": range(first, first + 5)}
        )
        rows.to_csv(folder / name, index=False)
    return str(folder / "*.csv")


def test_a_row_leads_to_its_file_and_row_through_where_map_and_filter(scripted_server, model_at, store, csvs):
    server = scripted_server(rules=(Rule(r"note [13579]\b", {"keep": True}), Rule("note", {"keep": False})))
    table = apwa.read(csvs).where("k > 2").filter("odd?", inputs="text")

    run = table.run(model=model_at(server), store=store, progress=False)

    assert run.result()["k"].tolist() == [3, 5, 7, 9]
    found = [run.lineage(k).origins.iloc[0] for k in range(4)]
    assert [(row["file"], row["row"]) for row in found] == [
        ("a.csv", 3),
        ("b.csv", 0),
        ("b.csv", 2),
        ("b.csv", 4),
    ]
    assert apwa.attach(run.id, store).lineage(3).origins.equals(run.lineage(3).origins)


def test_children_of_a_flat_map_lead_to_their_parent_and_tell_its_call(scripted_server, model_at, store):
    frame = pd.DataFrame({"text": ["one", "two"]}, index=pd.Index(["x", "y"], name="key"))
    rules = (
        Rule("one", {"rows": [{"part": "a"}, {"part": "b"}]}),
        Rule("two", {"rows": [{"part": "c"}]}),
        Rule("^part: b", {"n": 2}, where="last"),
    )
    server = scripted_server(rules=rules)
    table = apwa.from_pandas(frame).flat_map("split", inputs="text", output={"part": str})
    run = table.map("count", inputs="part", output={"n": int}).run(
        model=model_at(server), store=store, progress=False
    )

    assert run.result()["part"].tolist() == ["a", "b", "c"]
    calls = server.calls
    story = run.row(1)

    assert run.lineage(1).origins["index"].tolist() == ["x"]
    assert [step.op for step in story.steps] == ["flat_map", "map"]
    assert story.steps[0].answer == [{"part": "a"}, {"part": "b"}]
    assert story.values["part"] == "b"
    assert all(len(step.exchanges) == 1 for step in story.steps)
    assert server.calls == calls


def test_a_group_leads_to_all_rows_it_consumed_and_to_no_other(scripted_server, model_at, store):
    frame = pd.DataFrame({"text": [f"note {k}" for k in range(20)], "g": list("ab") * 10})
    frame.loc[4, "text"] = None
    server = scripted_server(Script(faults=(Fault("refusal", on=r"note 6\b"),)))
    table = apwa.from_pandas(frame, npartitions=3).map("x", inputs="text", output={"a": str})
    run = table.reduce("sum up", inputs="text", by="g", output={"s": str}).run(
        model=model_at(server), store=store, progress=False
    )

    groups = run.result()["g"].tolist()
    lineages = {group: run.lineage(k) for k, group in enumerate(groups)}

    rows = {group: found.origins["index"].tolist() for group, found in lineages.items()}
    assert rows == {"a": [0, 2, 8, 10, 12, 14, 16, 18], "b": list(range(1, 20, 2))}
    story = run.row(groups.index("b"))
    (step,) = story.steps
    assert [exchange.outcome for exchange in step.exchanges] == ["ok"]
    assert "note 19" in step.exchanges[0].messages[-1][1]
    assert "note 18" not in step.exchanges[0].messages[-1][1]


def test_a_tall_tree_of_notes_is_told_whole(scripted_server, model_at, store):
    frame = pd.DataFrame({"text": [f"note {k} " + "word " * 150 for k in range(60)]})
    server = scripted_server()
    table = apwa.from_pandas(frame, npartitions=10).reduce("sum up", inputs="text", output={"s": str})
    run = table.run(
        model=model_at(server, context_tokens=3000, max_output_tokens=200), store=store, progress=False
    ).wait()
    assert server.calls > 5

    story = run.row(0)

    assert len(story.exchanges) == server.calls
    prompt, completion = server.log().billed_tokens
    assert (story.input_tokens, story.output_tokens) == (prompt, completion)
    assert len(run.lineage(0).origins) == 60


def test_an_aggregate_a_join_and_a_sort_lead_back_to_both_tables(scripted_server, store):
    left = apwa.from_pandas(pd.DataFrame({"k": [1, 2, 2], "v": [10, 20, 30]}), npartitions=2)
    right = apwa.from_pandas(pd.DataFrame({"k": [2, 1], "w": ["two", "one"]}))
    joined = left.merge(right, on="k").sort("v", descending=True)
    run = joined.run(store=store, progress=False)
    assert run.result()["v"].tolist() == [30, 20, 10]
    assert len(run.lineage(0).origins["source"].unique()) == 2
    assert sorted(run.lineage(0).origins["index"]) == [0, 2]

    grouped = joined.aggregate(by="w", n="count").run(store=store, progress=False)
    two = grouped.result()["w"].tolist().index("two")
    assert [hop.steps[0] for hop in grouped.lineage(two).hops] == ["aggregate_1", "sort_1", "merge_1"]
    assert sorted(grouped.lineage(two).origins["index"]) == [
        0,
        1,
        2,
    ]  # two rows of the left, one of the right


def test_tables_under_one_another_are_told_apart(scripted_server, store):
    first, second = (apwa.from_pandas(pd.DataFrame({"k": ks})) for ks in ([1, 2], [3, 4]))
    run = first.concat(second).run(store=store, progress=False)
    assert run.result()["k"].tolist() == [1, 2, 3, 4]
    assert [origins(run, k)[0][1] for k in range(4)] == [0, 1, 0, 1]
    assert origins(run, 0)[0][0] != origins(run, 3)[0][0]
    with pytest.raises(RunError, match="2 rows of the run"):
        run.row("0:1")


def test_a_rows_story_holds_its_prompt_answer_tokens_and_request(scripted_server, model_at, store):
    frame = pd.DataFrame({"text": ["fine", "bad"]})
    server = scripted_server(Script(rules=(Rule("bad", "no json at all", where="prompt"),)))
    table = apwa.from_pandas(frame).map("Rate it.", inputs="text", output={"a": int})
    run = table.run(model=model_at(server, price=apwa.Price(1, 2)), store=store, progress=False).wait()

    good, bad = run.row(0), run.row(run.failures["row_id"].iloc[0])

    (sent,) = [call for call in server.log() if "bad" not in str(call.messages)]
    assert [text for _, text in good.exchanges[0].messages] == [m["content"] for m in sent.messages]
    assert good.status == "ok"
    assert good.steps[0].answer == {"a": good.values["a"]}
    assert good.exchanges[0].request_id
    assert bad.status == "invalid_output"
    assert len(bad.exchanges) == 2  # the second re-ask repeats the first, and is not paid again
    assert bad.exchanges[-1].answer == "no json at all"
    assert good.attempts + bad.attempts == server.calls
    prompt, completion = server.log().billed_tokens
    assert good.input_tokens + bad.input_tokens == prompt
    assert good.cost_usd + bad.cost_usd == pytest.approx((prompt + 2 * completion) / 1e6)


def test_a_row_that_a_filter_left_out_says_so(scripted_server, model_at, store):
    server = scripted_server(rules=(Rule("one", {"keep": False}), Rule("two", {"keep": True})))
    table = apwa.from_pandas(pd.DataFrame({"text": ["one", "two"]})).filter("is it two?", inputs="text")
    run = table.run(model=model_at(server), store=store, progress=False).wait()

    story = run.row("0:0")

    assert (story.status, story.values) == ("dropped", {})
    assert story.steps[0].answer == {"keep": False}
    assert run.row("0:1").status == "ok"


def test_rows_that_share_a_prompt_each_tell_it(scripted_server, model_at, store):
    table = apwa.from_pandas(pd.DataFrame({"text": [f"t{k}" for k in range(4)]}))
    mapped = table.map("x", inputs="text", output={"a": int}, unit="pack(2)")
    run = mapped.run(model=model_at(scripted_server()), store=store, progress=False)
    answers = run.result()["a"].tolist()

    stories = [run.row(k) for k in range(4)]

    assert [story.steps[0].answer["a"] for story in stories] == answers
    assert stories[0].exchanges == stories[1].exchanges != stories[2].exchanges


def test_tools_are_told_with_their_results_and_not_run_again(scripted_server, model_at, store, monkeypatch):
    monkeypatch.setattr(capabilities, "_registry", dict(capabilities._registry))
    ran = []

    @apwa.capability(power="pure")
    def area_code(city: str) -> str:
        """Dialling code of a city."""
        ran.append(city)
        return "030"

    rules = (
        Rule("Berlin", {"tool_calls": [{"name": "area_code", "arguments": {"city": "Berlin"}}]}, turn=0),
        Rule("030", {"code": "030"}, where="prompt"),
    )
    server = scripted_server(rules=rules, answers="fail")
    table = apwa.from_pandas(pd.DataFrame({"city": ["Berlin"]}))
    out = table.map("Give the code.", inputs="city", output={"code": str}, tools=["area_code"])
    run = out.run(model=model_at(server), store=store, progress=False).wait()

    story = apwa.attach(run.id, store).row(0)

    assert ran == ["Berlin"]
    (asked, _) = story.exchanges
    (use,) = asked.tools
    assert (use.name, use.result) == ("area_code", "030")
    assert story.steps[0].answer == {"code": "030"}
    assert "area_code" in repr(story)
    assert out.run(model=model_at(server), store=store, progress=False).result()["code"].tolist() == ["030"]
    assert server.calls == 2


def test_hostile_text_is_text_in_a_story(scripted_server, model_at, store):
    frame = pd.DataFrame({"text": [HOSTILE]})
    server = scripted_server(rules=(Rule("alert", {"a": HOSTILE}, where="prompt"),))
    table = apwa.from_pandas(frame).map("x", inputs="text", output={"a": str})
    run = table.run(model=model_at(server), store=store, progress=False).wait()

    story = run.row(0)

    assert "<script" not in story._repr_html_()
    assert "&lt;script" in story._repr_html_()
    assert "\x1b" not in repr(story)
    assert "<script" not in run.lineage(0)._repr_html_()


def test_what_the_journal_lost_is_named_and_nothing_is_called(scripted_server, model_at, store):
    server = scripted_server()
    table = apwa.from_pandas(pd.DataFrame({"text": ["a"]})).map("x", inputs="text", output={"a": int})
    run = table.run(model=model_at(server), store=store, progress=False).wait()
    run._journal().purge(run.id)

    story = run.row(0)

    assert story.values["a"] == run.result()["a"].iloc[0]
    assert "not in the journal" in story.steps[0].message
    assert story.status == "ok"
    assert server.calls == 1


def test_rows_of_a_callers_frame_are_traced_where_it_lives_and_the_way_out_is_told_elsewhere(
    scripted_server, model_at, store
):
    frame = dd.from_pandas(pd.DataFrame({"text": ["a", "b"], "g": [1, 2]}, index=[7, 8]), npartitions=2)
    table = apwa.from_dask(frame).reduce("x", inputs="text", by="g", output={"s": str})
    run = table.run(model=model_at(scripted_server()), store=store, progress=False).wait()

    assert [run.lineage(k).origins["index"].tolist() for k in range(2)] == [[7], [8]]
    with pytest.raises(RunError, match="session") as caught:
        apwa.attach(run.id, store).lineage(0)
    assert caught.value.code == "RUN-SOURCE"


@pytest.mark.parametrize("row", ["9:9", "nonsense", 7, -9])
def test_an_unknown_row_is_refused_in_words(scripted_server, model_at, store, row):
    table = apwa.from_pandas(pd.DataFrame({"text": ["a"]})).map("x", inputs="text", output={"a": int})
    run = table.run(model=model_at(scripted_server()), store=store, progress=False).wait()
    with pytest.raises(RunError) as caught:
        run.row(row)
    assert caught.value.code == "RUN-ROW-UNKNOWN"
