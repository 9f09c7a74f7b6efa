"""The book of requests in flight over all processes: one caller for each, and nothing is held for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from apwa_dask.models.claimed import ANSWERED, DIGEST_BYTES, ELSEWHERE, YOURS, ClaimBook, digests_in

A, B, C = (bytes([letter]) * DIGEST_BYTES for letter in b"abc")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_first_to_ask_calls_and_the_others_are_told() -> None:
    book = ClaimBook()
    assert book.exchange("w1", "room", A + B, b"", b"") == bytes([YOURS, YOURS])
    assert book.exchange("w2", "room", B + C, b"", b"") == bytes([ELSEWHERE, YOURS])
    assert book.exchange("w1", "room", A, b"", b"") == bytes([YOURS]), "asking again changes nothing"
    assert book.exchange("w2", "other", B, b"", b"") == bytes([YOURS]), "another journal, another room"


def test_an_answer_is_told_to_all_and_what_was_given_up_is_free() -> None:
    book = ClaimBook()
    book.exchange("w1", "room", A + B, b"", b"")
    book.exchange("w1", "room", b"", A, B)
    assert book.exchange("w2", "room", A + B, b"", b"") == bytes([ANSWERED, YOURS])


def test_what_another_holds_cannot_be_given_up_for_it() -> None:
    book = ClaimBook()
    book.exchange("w1", "room", A, b"", b"")
    book.exchange("w2", "room", b"", b"", A)
    assert book.exchange("w2", "room", A, b"", b"") == bytes([ELSEWHERE])


def test_requests_of_a_dead_or_silent_process_are_free() -> None:
    clock = Clock()
    book = ClaimBook(clock, expires_s=30.0)
    book.exchange("w1", "room", A + B, b"", b"")
    book.release_holder("w1")
    assert book.exchange("w2", "room", A, b"", b"") == bytes([YOURS])
    clock.now = 31.0
    assert book.exchange("w3", "room", A + B, b"", b"") == bytes([YOURS, YOURS])


def test_memory_is_bounded_and_the_oldest_are_forgotten() -> None:
    book = ClaimBook(most=100)
    for k in range(1_000):
        book.exchange("w1", "room", k.to_bytes(DIGEST_BYTES, "big"), b"", b"")
    assert len(book) == 100


@given(st.lists(st.tuples(st.sampled_from(["w1", "w2", "w3"]), st.integers(0, 20)), max_size=60))
def test_no_request_is_given_to_two(asks: list[tuple[str, int]]) -> None:
    book = ClaimBook(Clock())
    owners: dict[int, str] = {}
    for holder, number in asks:
        (state,) = book.exchange(holder, "room", number.to_bytes(DIGEST_BYTES, "big"), b"", b"")
        if state == YOURS:
            assert owners.setdefault(number, holder) == holder
        else:
            assert owners[number] != holder


@given(st.lists(st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES)))
def test_digests_are_read_as_they_were_joined(digests: list[bytes]) -> None:
    assert digests_in(b"".join(digests)) == digests
