"""Cutting text: nothing is lost, cuts fall where sentences end, and the same text is always cut alike."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from apwa_dask.execution.frame_local import chunk_text


def test_chunks_cover_the_text_overlap_and_end_at_sentences() -> None:
    text = "".join(f"Sentence number {i} has some words. " for i in range(200))
    pieces = chunk_text(text, tokens=100, overlap_tokens=10)
    assert len(pieces) > 10
    assert all(len(piece) <= 400 for piece in pieces)
    assert all(piece.rstrip().endswith(".") for piece in pieces)
    at = 0
    for piece in pieces:
        found = text.index(piece, max(at - 60, 0))
        assert found <= at
        at = found + len(piece)
    assert at == len(text)


@settings(max_examples=80, deadline=None)
@given(text=st.text(max_size=400), tokens=st.integers(16, 40), overlap=st.integers(0, 15))
def test_no_character_is_lost_and_cutting_ends(text: str, tokens: int, overlap: int) -> None:
    pieces = chunk_text(text, tokens, overlap)
    assert pieces == chunk_text(text, tokens, overlap)
    assert pieces[-1] == "" or text.endswith(pieces[-1])
    assert text.startswith(pieces[0])
    assert sum(map(len, pieces)) >= len(text)
