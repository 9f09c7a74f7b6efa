"""Cutting text: nothing is lost, cuts fall where sentences end, and the same text is always cut alike."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from apwa_dask.execution.cutting import chunk_text, cut, heading_starts, headings_at


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


DOCUMENT = (
    """Preface of no section.

# Guide

Read me first. """
    + "Words go on and on. " * 20
    + """

## Install ##

```
# no heading, but a comment
```
"""
    + "Type this and that. " * 20
    + """

Reference
=========

Options
-------
"""
    + "One option after another. " * 20
)


def test_each_piece_knows_the_headings_it_stands_under_and_pieces_end_before_headings() -> None:
    pieces = cut(DOCUMENT, 60, 10, heading_starts(DOCUMENT))
    paths = headings_at(DOCUMENT, pieces)

    assert list(dict.fromkeys(paths)) == [None, "Guide", "Guide > Install", "Reference > Options"]
    for (start, end), path in zip(pieces, paths, strict=True):
        own = DOCUMENT[start:end]
        if path == "Reference > Options":
            assert "option" in own.lower()
        if path is None:
            assert own.startswith("Preface")


def test_a_piece_ends_before_a_heading_of_its_second_half() -> None:
    text = "".join(f"# Part {p}\n## Of it\n{'Words go on. ' * 12}\n" for p in range(4))

    pieces = cut(text, 60, 0, heading_starts(text))

    assert [text[start:end].split("\n")[0] for start, end in pieces] == [f"# Part {p}" for p in range(4)]
    assert headings_at(text, pieces) == [f"Part {p} > Of it" for p in range(4)]


@settings(max_examples=60, deadline=None)
@given(text=st.text("#=-` ab\n.", max_size=300), overlap=st.integers(0, 15))
def test_headings_of_any_text_are_found_and_every_character_stays(text: str, overlap: int) -> None:
    pieces = cut(text, 16, overlap, heading_starts(text))
    assert len(headings_at(text, pieces)) == len(pieces)
    reached = 0
    for start, end in pieces:
        assert start <= reached <= end
        reached = end
    assert reached == len(text)
