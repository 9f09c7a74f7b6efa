"""The purse of a lazy frame moves from place to place with all that was spent from it."""

from __future__ import annotations

from apwa_dask.execution.frame_purse import FramePurses, LocalPurses
from apwa_dask.models.budget import Budget
from apwa_dask.models.coordinator import Coordinator
from apwa_dask.models.leases import Money

BUDGET = Budget(calls=100)


def place(address: str) -> LocalPurses:
    made = LocalPurses(Coordinator(), "process")
    made.address = address
    return made


def left(at: LocalPurses) -> int:
    return at.charge("frame", Money(calls=1000), force=False).left.calls


def test_what_was_spent_where_the_purse_was_is_not_there_to_be_spent_where_it_goes() -> None:
    purses, here, there = FramePurses(), place("here"), place("there")
    purses.keep(here, "frame", BUDGET, Money())
    here.charge("frame", Money(calls=30), force=False)

    purses.keep(
        there, "frame", BUDGET, Money(calls=20)
    )  # the journal knows of less: a worker died with the rest
    assert left(there) == 70


def test_what_the_journal_knows_beyond_a_purse_counts_too() -> None:
    purses, here, there = FramePurses(), place("here"), place("there")
    purses.keep(here, "frame", BUDGET, Money())
    purses.keep(there, "frame", BUDGET, Money(calls=40))
    assert left(there) == 60


def test_a_frame_that_is_made_again_at_the_same_place_fills_no_second_purse() -> None:
    purses, here = FramePurses(), place("here")
    purses.keep(here, "frame", BUDGET, Money())
    here.charge("frame", Money(calls=30), force=False)
    purses.keep(here, "frame", Budget(calls=120), Money(calls=20))
    assert left(here) == 90
