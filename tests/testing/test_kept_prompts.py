"""A server that keeps prompts says how much of the next one it has read before."""

from __future__ import annotations

from apwa_dask.testing.kept_prompts import STEP_TOKENS, KeptPrompts

LONG = "a document " * 200
"""Of 2,200 characters, so 550 tokens: four whole steps."""


def test_what_a_prompt_shares_with_a_kept_one_is_counted_in_whole_steps() -> None:
    kept = KeptPrompts(1)
    assert kept.cached_tokens(LONG + "first question") == 0
    assert kept.cached_tokens(LONG + "second question") == 4 * STEP_TOKENS
    assert kept.cached_tokens("another " + LONG) == 0


def test_the_oldest_prompt_is_forgotten_first() -> None:
    kept = KeptPrompts(2)
    for beginning in ("one ", "two "):
        kept.cached_tokens(beginning + LONG)
    assert kept.cached_tokens("one " + LONG) > 0
    assert kept.cached_tokens("three " + LONG) == 0  # in place of the second
    assert kept.cached_tokens("two " + LONG) == 0


def test_a_server_that_keeps_none_never_says_so() -> None:
    kept = KeptPrompts(0)
    assert [kept.cached_tokens(LONG) for _ in range(3)] == [0, 0, 0]
