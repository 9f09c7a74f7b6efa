"""The display: how often it draws, where, and that it goes away."""

from __future__ import annotations

import io
import subprocess
import sys
import threading

import dask.config
import pytest
from rich.cells import cell_len

from apwa_dask.errors import ConfigError
from apwa_dask.execution.events import (
    EndpointPulse,
    Forecast,
    Progress,
    RunFinished,
    RunStarted,
    StageStarted,
    State,
)
from apwa_dask.observe.faces import LogFace, NotebookFace, TerminalFace
from apwa_dask.observe.lines import live_line, live_lines, log_line, summary_lines
from apwa_dask.observe.progress import ProgressDisplay, progress_for_environment
from apwa_dask.observe.state import ProgressState


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Pipe(io.StringIO):
    encoding = "utf-8"


def drive(display: ProgressDisplay, clock: Clock, *, seconds: float, per_s: int = 10, **progress) -> None:
    for _ in range(int(seconds * per_s)):
        clock.now_s += 1 / per_s
        display(Progress("calm-otter", clock.now_s, rows_done=1, **progress))


def begin(display: ProgressDisplay, clock: Clock, rows: int | None = 1000) -> None:
    display(RunStarted("calm-otter", clock.now_s, stages=1, budget_usd=5.0))
    display(StageStarted("calm-otter", clock.now_s, name="judge", partitions=4, rows=rows))


def test_a_terminal_is_drawn_at_most_twice_a_second_on_one_line():
    clock, terminal = Clock(), Terminal()
    with ProgressDisplay(TerminalFace(terminal, columns=lambda: 100), clock=clock) as display:
        begin(display, clock)
        drive(display, clock, seconds=10, per_s=50)
        drawn = terminal.getvalue()
        assert drawn.count("\r") <= 22
        assert "\n" not in drawn
    assert "calm-otter" in terminal.getvalue().rsplit("\r", 1)[1]


def test_the_last_state_is_what_the_summary_says_even_if_it_came_between_two_drawings():
    clock, terminal = Clock(), Terminal()
    display = ProgressDisplay(TerminalFace(terminal), clock=clock)
    begin(display, clock)
    display(Progress("calm-otter", clock.now_s, rows_done=777))
    display.close()
    assert "777/1,000 rows" in terminal.getvalue().rsplit("\r", 1)[1]


def test_a_log_has_a_line_at_the_start_one_every_half_minute_and_the_summary():
    clock, lines = Clock(), []
    display = ProgressDisplay(LogFace(lines.append), clock=clock)
    begin(display, clock)
    drive(display, clock, seconds=95)
    assert len(lines) == 4
    display(RunFinished("calm-otter", clock.now_s, status="done"))
    assert lines[4].startswith("apwa calm-otter: done, 950/1,000 rows in 1 min 35 s")
    assert not any("\r" in line or "\x1b" in line for line in lines)


def test_pauses_do_not_make_a_log_longer_than_its_pace():
    clock, lines = Clock(), []
    display = ProgressDisplay(LogFace(lines.append), clock=clock)
    begin(display, clock)
    for i in range(100):
        display(State("calm-otter", clock.now_s, words=f"paused {i}"))
    assert len(lines) == 1


def test_a_pause_is_drawn_on_a_terminal_at_once():
    clock, terminal = Clock(), Terminal()
    display = ProgressDisplay(TerminalFace(terminal), clock=clock)
    begin(display, clock)
    display(State("calm-otter", clock.now_s, words="paused until 13:05"))
    assert "paused until 13:05" in terminal.getvalue()


class FakeHandle:
    def __init__(self, shown: list) -> None:
        self.shown = shown

    def update(self, content) -> None:
        self.shown.append(content)


def test_a_notebook_gets_one_output_that_is_updated_in_place():
    clock, displayed, shown = Clock(), [], []

    def display_function(content, *, display_id):
        assert display_id is True
        displayed.append(content)
        return FakeHandle(shown)

    display = ProgressDisplay(NotebookFace(display_function), clock=clock)
    begin(display, clock)
    drive(display, clock, seconds=10)
    display.close()
    assert len(displayed) == 1
    assert 10 <= len(shown) <= 23
    assert {repr(content).count("\n") for content in [*displayed, *shown[:-1]]} == {3}  # its height
    assert "100/1,000 rows" in repr(shown[-1])
    assert "<script" not in shown[-1]._repr_html_()


def test_hostile_words_reach_a_notebook_escaped_and_a_terminal_without_their_escapes():
    evil = "refused: <img src=x onerror=alert(1)>\x1b]0;owned\x07"
    shown: list = []
    display = ProgressDisplay(NotebookFace(lambda _content, display_id: FakeHandle(shown)), clock=Clock())
    display(Progress("r", 1000.0, failures={evil: 1}, rows_failed=1))
    display.close()
    assert "<img" not in shown[-1]._repr_html_()
    assert "\x1b" not in repr(shown[-1])


def test_closing_twice_and_events_after_the_end_draw_nothing_more():
    clock, lines = Clock(), []
    display = ProgressDisplay(LogFace(lines.append), clock=clock)
    begin(display, clock)
    display.close()
    before = list(lines)
    display.close()
    drive(display, clock, seconds=60)
    assert lines == before


def test_a_closed_stream_silences_the_display_and_not_the_run():
    stream, clock = Terminal(), Clock()
    display = ProgressDisplay(TerminalFace(stream), clock=clock)
    begin(display, clock)
    stream.close()
    drive(display, clock, seconds=2)
    display.close()
    assert display.state.rows_done == 20


def test_a_display_starts_no_thread():
    before = threading.enumerate()
    clock = Clock()
    display = progress_for_environment(Terminal(), clock=clock)
    begin(display, clock)
    drive(display, clock, seconds=2)
    assert threading.enumerate() == before
    display.close()


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 300])
def test_the_line_fits_the_terminal_and_keeps_the_rows_longest(width):
    state = ProgressState()
    for event in (
        RunStarted("r", 1000.0, stages=3, budget_usd=5.0),
        StageStarted("r", 1000.0, name="判定 judge", rows=20_000),
        Progress(
            "r",
            1010.0,
            rows_done=1234,
            rows_failed=3,
            in_flight=64,
            cost_usd=0.12,
            failures={"refused: 不": 3},
        ),
    ):
        state = state.apply(event)
    line = live_line(state, width)
    assert cell_len(line) <= width
    assert "1,234/20,000 rows" in line


def test_a_wide_line_says_everything():
    state = ProgressState()
    for event in (
        RunStarted("r", 1000.0, stages=2, budget_usd=5.0),
        StageStarted("r", 1000.0, name="judge", rows=2000),
        Progress("r", 1010.0, rows_done=1000, rows_failed=3, rows_cached=120, in_flight=64, cost_usd=0.12,
                 failures={"truncated: 512 tokens": 3}),
    ):  # fmt: skip
        state = state.apply(event)
    assert live_line(state) == (
        "apwa  ▕██████      ▏  1,000/2,000 rows  3 failed  120 cached  64 in flight  936 waiting  100/s"
        "  ETA 10 s + later stages  $0.1200 of $5.00  running"
        "  stage 1 of 2 (judge)  last failure: truncated: 512 tokens (3)"
    )


def test_a_notebook_says_rows_pace_money_and_failures_in_four_lines():
    state = ProgressState()
    for event in (
        RunStarted("r", 1000.0, stages=1, budget_usd=5.0),
        StageStarted("r", 1000.0, name="judge", rows=2000),
        EndpointPulse("r", 1005.0, endpoint="m", worker="w", in_flight=40, most=64, requests_per_s=120.0),
        Progress("r", 1010.0, rows_done=1000, rows_failed=5, rows_cached=120, in_flight=64, cost_usd=0.12,
                 calls=900, throttled_s=7.0, worker="w",
                 failures={"refused: no": 3, "truncated: 512 tokens": 2}),
        Forecast("r", 1010.0, figure="USD", estimated=0.1, forecast=0.24, warning="it will come to more"),
        State("r", 1010.0, words="paused until 12:03:10 UTC: rate limit"),
    ):  # fmt: skip
        state = state.apply(event)
    assert live_lines(state, 160) == (
        "apwa  ▕██████      ▏  1,000/2,000 rows  5 failed  120 cached  40 of 64 in flight  960 waiting",
        "paused until 12:03:10 UTC: rate limit  100/s  limit 120/s  ETA 10 s  7 s held back by limits",
        "cost $0.1200 (about $0.2400 in all) of $5.00  warning: it will come to more",
        "3 x refused: no; 2 x truncated: 512 tokens",
    )
    assert all(
        fact in log_line(state, 1010.0) for fact in ("40 of 64", "960 waiting", "limit 120/s", "7 s held")
    )
    assert max(cell_len(line) for line in live_lines(state, 50)) == 50


def test_what_was_expected_stands_below_what_came_figure_by_figure():
    state = ProgressState()
    for event in (
        RunStarted("r", 1000.0, stages=1, estimated={
            "calls": (12, 12, 14.4), "input_tokens": (1579, 2532, 4315), "output_tokens": (264, 588, 1611),
            "cost_usd": (0.0004, 0.0007, 0.0016), "minutes": (0.1, 0.2, 1.5)}),
        Progress("r", 1010.0, rows_done=12, calls=12, input_tokens=1993, output_tokens=152, cost_usd=0.0005),
        RunFinished("r", 1011.0, status="done"),
    ):  # fmt: skip
        state = state.apply(event)
    assert summary_lines(state, 1011.0)[1:] == (
        "  cost $0.0005, 12 calls, 1,993 tokens in, 152 out",
        "  estimated $0.0007 ($0.0004 to $0.0016), 12 calls (12 to 14), 2,532 tokens in (1,579 to 4,315), "
        "588 out (264 to 1,611), 12 s (6 s to 1 min 30 s)",
    )
    short = RunStarted("r", 1000.0, estimated={"calls": (1, 1, 1), "minutes": (0.001, 0.002, 0.003)})
    assert summary_lines(ProgressState().apply(short), 1001.0)[-1] == "  estimated 1 call (1 to 1)"


def test_what_stays_breaks_where_a_page_is_narrow_and_what_moves_does_not():
    clock, shown = Clock(), []
    display = ProgressDisplay(NotebookFace(lambda _content, display_id: FakeHandle(shown)), clock=clock)
    begin(display, clock)
    assert "white-space:pre;" in shown[-1]._repr_html_()
    display.close()
    assert "white-space" not in shown[-1]._repr_html_()
    assert shown[-1]._repr_html_().count("<div") == repr(shown[-1]).count("\n") + 2


def test_an_unknown_cost_is_said_in_every_form():
    state = ProgressState().apply(Progress("r", 1000.0, calls=1, cost_unknown=True))
    assert "unknown cost" in live_line(state)
    assert "unknown cost" in log_line(state, 1000.0)
    assert "unknown cost" in " ".join(summary_lines(state, 1000.0))


def test_a_terminal_without_unicode_gets_an_ascii_bar():
    terminal = Terminal()
    terminal.encoding = "ascii"
    clock = Clock()
    display = ProgressDisplay(TerminalFace(terminal), clock=clock)
    begin(display, clock)
    drive(display, clock, seconds=5)
    display.close()
    terminal.getvalue().encode("ascii")
    assert "[" in terminal.getvalue()


def test_the_environment_decides_and_a_setting_overrides_it():
    pipe = Pipe()
    with progress_for_environment(pipe, clock=Clock()) as display:
        begin(display, Clock())
    assert "\r" not in pipe.getvalue()
    assert pipe.getvalue().startswith("apwa calm-otter: running")

    silent = Terminal()
    with dask.config.set({"apwa.progress": "silent"}), progress_for_environment(silent) as display:
        begin(display, Clock())
    assert silent.getvalue() == ""
    with pytest.raises(ConfigError, match="one of auto, terminal"):
        progress_for_environment(mode="loud")


def test_without_a_summary_a_terminal_is_left_as_it_was():
    terminal = Terminal()
    with dask.config.set({"apwa.progress-summary": False}), progress_for_environment(terminal) as display:
        begin(display, Clock())
    assert terminal.getvalue().endswith("\r\x1b[2K")


def test_a_display_needs_neither_widgets_nor_a_notebook_package():
    code = (
        "import sys\n"
        "sys.modules['ipywidgets'] = None\n"
        "from apwa_dask.observe.progress import progress_for_environment\n"
        "progress_for_environment().close()\n"
        "assert 'IPython' not in sys.modules and 'distributed' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
