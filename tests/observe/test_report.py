"""The report: one bounded file that loads nothing and runs nothing, whatever was in the data."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from apwa_dask.execution.events import EndpointPulse, Progress, RunFinished, RunStarted, StepPulse
from apwa_dask.observe.history import History, Picture
from apwa_dask.observe.plan_graph import GraphNode, plan_graph
from apwa_dask.observe.report import (
    MAX_BYTES,
    CostRow,
    EstimateRow,
    FailureReport,
    ReportFacts,
    render_report,
)
from apwa_dask.observe.svg import Chart, Line, line_chart

EVIL = "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\"></style></pre>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def facts(text: str = "plain", **changes) -> ReportFacts:
    values = {
        "run_id": "calm-otter",
        "name": text,
        "query": text,
        "status": "done",
        "message": text,
        "rows_total": 100,
        "rows_done": 100,
        "rows_failed": 7,
        "rows_cached": 20,
        "rows_out": 100,
        "calls": 80,
        "cost_usd": 1.5,
        "budget_usd": 5.0,
        "started_at": "2026-01-02 03:04:05+00:00",
        "duration_s": 61.0,
        "plan_text": text,
        "plan_yaml": text,
        "models": [text],
        "local_model": text,
        "costs": [CostRow(text, text, text, 80, 1000, 2000, 1.5)],
        "estimates": [EstimateRow(text, text, text, text, text)],
        "failures": [FailureReport(text, text, 7, [{text: text, "row": i} for i in range(7)])],
        "sample_rows": [{text: text, "severity": i} for i in range(3)],
        "manifest": {"text": text, "nested": {"list": [1, None, text]}},
        "folder": text,
    }
    return ReportFacts(**(values | changes))


class Tags(HTMLParser):
    """Every tag with its attributes, as a browser would see them."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(document)

    def handle_starttag(self, tag, attrs) -> None:
        self.seen.append((tag, dict(attrs)))


def test_hostile_text_in_every_field_adds_no_tag():
    assert [tag for tag, _ in Tags(render_report(facts(EVIL))).seen] == [
        tag for tag, _ in Tags(render_report(facts())).seen
    ]


def test_the_policy_forbids_scripts_and_fetches_and_nothing_refers_outside():
    document = render_report(facts())
    tags = Tags(document).seen
    policies = [
        attrs["content"] for tag, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"]
    assert not {"script", "link", "iframe", "object", "img", "a"} & {tag for tag, _ in tags}
    assert not [
        name for _, attrs in tags for name in attrs if name.startswith("on") or name in ("src", "href")
    ]
    assert not re.search(r"url\(|@import|https?://", document)


def test_a_million_rows_of_long_cells_stay_within_five_megabytes():
    class Endless:
        """Rows that would be a gigabyte, to be looked at and not copied."""

        def __init__(self, row: dict) -> None:
            self.row = row

        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, i: int) -> dict:
            return self.row

    row = {f"column {c} {EVIL}": "\U0001f40d<&\"'" * 400 for c in range(300)}
    big = facts(
        EVIL * 20_000,
        rows_out=1_000_000,
        sample_rows=Endless(row),
        costs=[CostRow(f"step {i}", "m" * 500, "ok") for i in range(5000)],
        failures=[FailureReport("refused", f"{i} {EVIL * 50}", 1, [row] * 5) for i in range(2000)],
        manifest={"files": ["<" * 300] * 20_000},
    )
    document = render_report(big)
    assert len(document.encode()) <= MAX_BYTES
    assert "1,000,000 rows" in document


def test_what_is_left_out_is_said():
    many = facts(
        failures=[FailureReport("refused", str(i), 1) for i in range(50)],
        costs=[CostRow(f"s{i}", "m", "ok") for i in range(400)],
        sample_columns=[f"c{i}" for i in range(50)],
        sample_rows=[{"c0": 1}] * 500,
        rows_out=500,
        plan_text="x" * 200_000,
    )
    document = render_report(many)
    for words in (
        "10 more groups",
        "100 more rows",
        "40 of 50 columns",
        "100 of 500 rows",
        "100,000 more characters",
    ):
        assert words in document


def test_an_unknown_price_is_said_and_not_shown_as_zero():
    document = render_report(facts(cost_usd=None, costs=[CostRow("s", "m", "ok", cost_usd=None)]))
    assert document.count(">unknown<") == 3
    assert "$0" not in document


def test_answers_of_the_embedded_model_are_labelled():
    label = "embedded model qwen2.5-coder-1.5b-instruct-q4_k_m"
    assert f"Answers by the {label}" in render_report(facts(local_model=label))
    assert "Answers by the" not in render_report(facts(local_model=""))


def test_failures_show_five_samples_of_each_group():
    document = render_report(facts("cell"))
    assert "7 × cell" in document
    table = document.split("7 × cell")[1].split("</table>")[0]
    assert table.count("<tr>") == 1 + 5


def test_a_run_of_which_nothing_is_known_yet_still_has_a_report():
    document = render_report(ReportFacts(run_id="calm-otter", status="running"))
    assert "calm-otter" in document
    assert "No row failed." in document


def test_equal_facts_give_equal_bytes():
    assert render_report(facts()) == render_report(facts())


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_runs_none_of_the_hostile_text_and_shows_it_as_text(tmp_path, scheme):
    page = tmp_path / "report.html"
    page.write_text(render_report(facts(EVIL, status="stopped")), encoding="utf-8")
    blink = {"light": [], "dark": ["--blink-settings=preferredColorScheme=0"]}[scheme]
    done = subprocess.run(
        [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu",
         f"--user-data-dir={tmp_path / 'profile'}", *blink, "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    tags = Tags(done.stdout).seen
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None
    assert title[1] != "pwned"
    assert "&lt;script&gt;" in done.stdout
    assert not {"script", "img"} & {tag for tag, _ in tags}


def a_million_rows() -> Picture:
    """What eight hours with a thousand workers, four endpoints and thirty steps leave behind."""
    history = History()
    history(RunStarted("r", 0.0, stages=30, budget_usd=900.0))
    for second in range(0, 28_800, 4):
        at_s, worker = float(second), f"tcp://10.0.{second % 250}.{second % 4}:40000"
        history(
            Progress("r", at_s, rows_done=139, calls=139, cost_usd=0.1, input_tokens=90_000, worker=worker)
        )
        history(
            StepPulse(
                "r", at_s, step=f"step_{second % 30}", worker=worker, outcomes={"ok": 138, "refused": 1},
                latency={str(20 + second % 30): 139}, took={f"{second}:{second}": (1.0 + second % 97, 0.1)},
            )
        )  # fmt: skip
        history(
            EndpointPulse(
                "r", at_s, endpoint=f"model at host-{second % 4}", worker=worker, in_flight=16, limit=16, most=64,
                answers=139, throttled=second % 3, requests_per_s=50.0,
            )
        )  # fmt: skip
    history(RunFinished("r", 28_800.0))
    return history.picture()


def test_a_report_of_a_million_rows_with_all_its_plots_is_one_small_file():
    picture = a_million_rows()
    assert sum(picture.series.count("rows")) == pytest.approx(7200 * 139)
    graph = [GraphNode("table", "table", "table")]
    graph += [GraphNode(f"step_{n}", "map, gpt", "model", [graph[-1].name]) for n in range(30)]
    document = render_report(
        facts(
            rows_total=1_000_000,
            rows_done=1_000_000,
            rows_out=1_000_000,
            picture=picture,
            graph=graph,
            failures=[FailureReport("refused", f"{n}", 9, [{"given": "x" * 500}] * 5) for n in range(1000)],
            sample_rows=[{f"column {c}": "text " * 100 for c in range(40)}] * 100,
            manifest={"parts": [{"file": f"part-{n}", "sha256": "0" * 64} for n in range(10_000)]},
        )
    )
    assert len(document.encode()) <= MAX_BYTES
    assert document.count('<svg class="chart"') == 7
    assert document.count('<g class="node') == 31


def test_plots_and_graph_hold_hostile_names_as_text():
    def page(name: str) -> str:
        history = History()
        history(RunStarted("r", 0.0, budget_usd=1.0))
        history(Progress("r", 1.0, rows_done=4, cost_usd=0.1, worker=name))
        history(StepPulse("r", 1.0, step=name, worker=name, outcomes={name: 1}, latency={"9": 4}))
        for number in range(2):
            history(
                EndpointPulse(
                    "r", 1.0, endpoint=f"{number}{name}", worker=name, answers=4, throttled=1, most=9
                )
            )
        nodes = [GraphNode(name, name, name), GraphNode(f"{name}2", name, "model", [name])]
        return render_report(facts(picture=history.picture(), graph=nodes))

    assert [tag for tag, _ in Tags(page(EVIL)).seen] == [tag for tag, _ in Tags(page("plain")).seen]


def test_a_chart_says_its_unit_and_ticks_in_round_numbers():
    chart = Chart("Cost", "USD", [Line("spent", [0.0, 3600.0, 10_800.0], [0.0, 1.0, 3.7], "b")])
    svg = str(line_chart(chart, 0.0))
    assert 'aria-label="Cost, USD"' in svg
    assert re.findall(r'text-anchor="end">([^<]+)<', svg) == ["USD", "0", "1", "2", "3", "4"]
    assert re.findall(r'text-anchor="middle">([^<]+)<', svg) == ["0", "1", "2", "3 h"]


def test_a_chart_without_points_is_not_drawn():
    assert line_chart(Chart("x", "y", [Line("a", [], [])]), 0.0) is None


def test_a_step_stands_behind_all_that_it_reads():
    nodes = [
        GraphNode("left", "table", "table"),
        GraphNode("right", "table", "table"),
        GraphNode("clean", "map", "model", ["left"]),
        GraphNode("both", "join", "model", ["clean", "right"]),
    ]
    boxes = re.findall(r'<title>(\w+):.*?<rect x="(\d+)"', str(plan_graph(nodes)))
    at = {name: int(x) for name, x in boxes}
    assert at["left"] == at["right"] < at["clean"] < at["both"]
    assert str(plan_graph(nodes)).count('class="edge"') == 3


def test_the_costs_name_cached_tokens_and_the_date_of_the_prices():
    document = render_report(
        facts(
            costs=[CostRow("s", "m", "ok", 3, 5000, 20, 0.5, cached_tokens=4321)], prices_as_of="2026-01-02"
        )
    )
    assert "4,321" in document
    assert "Prices of the list of 2026-01-02" in document
