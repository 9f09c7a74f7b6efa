"""Words of a question that allow a choice: many ways to ask, and no step that nobody asked for."""

from __future__ import annotations

import pytest

from apwa_dask.manager.guided import cues


@pytest.mark.parametrize(
    ("question", "count", "number", "order", "rewrite"),
    [
        ("Which of these messages are spam?", False, False, False, False),
        ("How many messages are in the file?", True, False, False, False),
        ("Which city has the most orders?", True, False, True, False),
        ("What is the average price by city?", True, True, False, False),
        ("Extract the total of every receipt.", False, True, False, False),
        ("Summarise each speech in two sentences.", False, False, False, True),
        ("Replace every name in the text with stars.", False, False, False, True),
        ("Return the text of the spam messages.", False, False, False, False),
        ("Sort the reviews by length.", True, False, True, False),
        ("Wie viele Nachrichten sind Werbung?", True, True, True, True),
    ],
)
def test_an_english_question_allows_what_its_words_speak_of(
    question: str, count: bool, number: bool, order: bool, rewrite: bool
) -> None:
    found = (
        cues.may_count(question),
        cues.may_number(question),
        cues.may_order(question),
        cues.may_rewrite(question),
    )
    assert found == (count, number, order, rewrite)


@pytest.mark.parametrize(
    ("question", "some"),
    [
        ("How many of these text messages are spam?", True),
        ("How many questions are complaints?", True),
        ("How many documents mention a deadline?", True),
        ("How many messages are in the file?", False),
        ("How many orders are there?", False),
        ("How many speeches are there per speaker?", False),
    ],
)
def test_counting_some_rows_is_told_from_counting_all(question: str, some: bool) -> None:
    assert cues.means_some(question) is some
    assert cues.means_all(question) is not some


@pytest.mark.parametrize(
    ("question", "labels"),
    [
        ("Give each a topic: billing (charges, refunds), delivery or praise.", True),
        ("What is the sentiment: positive, negative or neutral?", True),
        ("Extract company, date and total.", False),
        ("Which are about a lost card (not a phone)?", False),
    ],
)
def test_labels_listed_after_a_colon_are_seen(question: str, labels: bool) -> None:
    assert cues.lists_labels(question) is labels


def test_values_and_columns_are_mentioned_by_any_of_their_words() -> None:
    assert cues.is_mentioned(["corpus", "state_union"], "Who gave State of the Union addresses?")
    assert cues.is_mentioned(["inaugural"], "Which inaugural addresses are there?")
    assert not cues.is_mentioned(["case_status", "Open"], "Which speakers spoke?")
