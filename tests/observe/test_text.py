"""`safe_text`: whatever a model writes, the terminal only shows it."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apwa_dask.observe.text import duration_text, money_text, rate_text, safe_text

ESCAPES = {
    "colour": "\x1b[31mred\x1b[0m",
    "clear screen": "\x1b[2J\x1b[Hred",
    "8-bit CSI": "\x9b31mred",
    "window title": "\x1b]0;owned\x07red",
    "link": "\x1b]8;;http://127.0.0.1/\x1b\\red\x1b]8;;\x1b\\",
    "clipboard": "\x1b]52;c;cm0gLXJm\x07red",
    "device control": "\x1bP1$tred\x1b\\red",
    "reset": "\x1bcred",
    "bell and backspace": "r\x07e\x08d",
    "right to left override": "r\u202eed",
    "tag characters": "red\U000e0041\U000e0042",
    "carriage return": "\rred",
}


@pytest.mark.parametrize("text", ESCAPES.values(), ids=ESCAPES)
def test_escape_sequences_leave_only_their_visible_text(text):
    assert safe_text(text) == "red"


@given(st.text())
def test_no_text_keeps_a_control_character_and_every_result_can_be_encoded(text):
    shown = safe_text(text)
    assert not [c for c in shown if unicodedata.category(c) == "Cc"]
    shown.encode()


@given(st.text())
def test_kept_lines_hold_no_control_character_but_the_line_feed(text):
    shown = safe_text(text, keep_lines=True)
    assert not [c for c in shown if unicodedata.category(c) == "Cc" and c != "\n"]


@given(st.text(), st.integers(1, 50))
def test_shortened_text_is_never_longer_than_asked(text, max_chars):
    assert len(safe_text(text, max_chars=max_chars)) <= max_chars


def test_a_line_of_a_log_cannot_be_forged():
    assert "\n" not in safe_text("done\n2026-01-01 ERROR disk full")


def test_lone_surrogates_become_the_replacement_character():
    assert safe_text("a\ud800b") == "a\ufffdb"


def test_an_endless_cell_is_cut_before_it_is_worked_on():
    assert safe_text("x" * 10_000_000, max_chars=5) == "xxxx…"


def test_ordinary_text_of_any_script_is_left_alone():
    text = "Grüße, naïve café, 東京, नमस्ते, 👩‍👩‍👧"
    assert safe_text(text) == text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (0.25, "0.2 s"), (42, "42 s"), (200, "3 min 20 s"), (3000, "50 min"), (7500, "2 h 05 min"),
     (270_000, "3 d 3 h"), (float("inf"), "unknown")],
)  # fmt: skip
def test_durations_are_said_in_two_units_at_most(seconds, words):
    assert duration_text(seconds) == words


def test_an_unknown_price_is_never_shown_as_zero():
    assert money_text(None) == "unknown"
    assert money_text(float("nan")) == "unknown"
    assert money_text(0.0) == "$0"
    assert money_text(1e-9) == "<$0.0001"


def test_slow_rates_are_said_by_the_minute_or_the_hour():
    assert (rate_text(1234.4), rate_text(2.34), rate_text(0.5), rate_text(0.001)) == (
        "1,234/s", "2.3/s", "30/min", "4/h",
    )  # fmt: skip
