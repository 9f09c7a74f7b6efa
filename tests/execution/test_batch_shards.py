"""Input files of batches: each limit of an endpoint bounds them, whichever of them binds."""

from __future__ import annotations

import hashlib

import pytest

from apwa_dask.execution.batch_asks import Ask
from apwa_dask.execution.batch_shards import ShardDraft, prompt_tokens
from apwa_dask.models.batch_terms import BatchTerms
from apwa_dask.models.leases import Money


def ask(number: int, size_bytes: int = 400) -> Ask:
    key = hashlib.sha256(str(number).encode()).digest()
    return Ask(key, "owner", "step", "", 100, b"x" * size_bytes)


def filled(terms: BatchTerms, max_tokens: int | None = None, size_bytes: int = 400) -> ShardDraft:
    """A draft with as many requests as have room."""
    draft, number = ShardDraft("", 0, terms, max_tokens), 0
    while draft.has_room(ask(number, size_bytes)) and number < 1000:
        draft.add(ask(number, size_bytes), Money(calls=1))
        number += 1
    return draft


def test_by_default_a_file_is_what_openai_takes() -> None:
    assert (BatchTerms().max_requests, BatchTerms().max_bytes) == (50_000, 200_000_000)


def test_the_number_of_requests_bounds_a_file() -> None:
    assert len(filled(BatchTerms(max_requests=7)).asks) == 7


def test_its_bytes_bound_a_file_though_requests_are_few() -> None:
    draft = filled(BatchTerms(max_bytes=5_000))
    lines = b"".join(draft.lines())
    assert len(lines) == draft.size_bytes <= 5_000 < len(lines) + len(ask(0).line)


def test_enqueued_tokens_bound_a_file_though_it_is_small() -> None:
    draft = filled(BatchTerms(), max_tokens=1_000)
    assert draft.tokens <= 1_000 < draft.tokens + prompt_tokens(ask(0))


@pytest.mark.parametrize("terms", [BatchTerms(max_bytes=10), BatchTerms(max_requests=1)])
def test_one_request_always_fits_so_that_none_waits_for_ever(terms: BatchTerms) -> None:
    assert len(filled(terms, max_tokens=1).asks) == 1
