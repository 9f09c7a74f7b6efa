"""Leases: one owner, a growing fence, and no trust in clocks beyond need."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from apwa_dask.errors import StoreError
from apwa_dask.store.folder import Folder, open_folder
from apwa_dask.store.heartbeat import Heartbeat
from apwa_dask.store.lease import Claim, Lease, LeaseKeeper, Process, this_process


class Time:
    """A clock that only tests move; sleeping moves it."""

    def __init__(self) -> None:
        self.wall_s, self.monotonic_s = 1_000_000.0, 0.0

    def sleep(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds

    def keeper(self, folder: Folder) -> LeaseKeeper:
        return LeaseKeeper(
            folder, clock=lambda: self.wall_s, monotonic=lambda: self.monotonic_s, sleep=self.sleep
        )


@pytest.fixture
def folder(url: str) -> Folder:
    return open_folder(url).child("lease")


def test_a_lease_has_one_owner_and_the_next_after_release(folder: Folder) -> None:
    keeper = Time().keeper(folder)
    assert keeper.holder() is None
    first = keeper.claim("first")
    holder = keeper.holder()
    assert holder is not None
    assert holder.owner == "first"
    with pytest.raises(StoreError) as refused:
        keeper.claim("second")
    assert refused.value.code == "STORE-CLAIMED"
    first.release()
    assert keeper.holder() is None
    assert keeper.claim("second").fence > first.fence


def test_a_silent_owner_is_superseded_and_learns_it(folder: Folder) -> None:
    time = Time()
    keeper = time.keeper(folder)
    frozen = keeper.claim("frozen", ttl_s=10)
    time.sleep(8)
    frozen.heartbeat()
    time.sleep(8)
    with pytest.raises(StoreError):
        keeper.claim("second", ttl_s=10)
    time.sleep(3)
    thief = keeper.claim("second", ttl_s=10)
    assert thief.fence == frozen.fence + 1
    with pytest.raises(StoreError) as fenced:
        frozen.heartbeat()
    assert fenced.value.code == "STORE-FENCED"
    thief.heartbeat()


@pytest.mark.parametrize("jump_s", [-86_400, 86_400])
def test_an_owner_with_a_wrong_clock_is_told_by_its_silence(folder: Folder, jump_s: float) -> None:
    time = Time()
    keeper = time.keeper(folder)
    keeper.claim("dead", ttl_s=10)
    time.wall_s += jump_s
    assert keeper.claim("second", ttl_s=10, wait_s=60).fence == 2
    assert time.monotonic_s < 12


def test_waiting_ends_with_the_release(folder: Folder) -> None:
    keeper = LeaseKeeper(folder)
    first = keeper.claim("first")
    timer = threading.Timer(0.1, first.release)
    timer.start()
    assert keeper.claim("second", wait_s=30).fence == 2
    timer.join()


def test_of_eight_claimers_one_wins(folder: Folder) -> None:
    start = threading.Barrier(8)
    won: list[Lease] = []
    refused: list[StoreError] = []

    def claim(owner: str) -> None:
        start.wait()
        try:
            won.append(LeaseKeeper(folder).claim(owner))
        except StoreError as error:
            refused.append(error)

    threads = [threading.Thread(target=claim, args=[f"owner {n}"]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(refused) == 7


def test_a_slow_claimer_cannot_use_a_number_that_others_have_passed(folder: Folder) -> None:
    keeper = Time().keeper(folder)
    for n in range(5):
        keeper.claim(f"owner {n}").release()
    assert keeper._succeed(2, "slow", 30.0) is None
    assert keeper.claim("next").fence == 6


def test_a_damaged_claim_holds_nothing_and_the_fence_still_grows(folder: Folder) -> None:
    keeper = Time().keeper(folder)
    keeper.claim("first")
    folder.write("00000001.claim", b"{")
    assert keeper.holder() is None
    assert keeper.claim("second").fence == 2


def test_old_claims_are_cleaned_up(folder: Folder) -> None:
    keeper = Time().keeper(folder)
    for n in range(20):
        with keeper.claim(f"owner {n}") as lease:
            lease.heartbeat()
    assert len(folder.entries()) <= 3


def test_a_process_is_dead_only_where_that_is_sure() -> None:
    here = this_process()
    assert not here.is_dead
    assert not Process("another machine", 2**22 + 1, "1").is_dead
    child = os.fork() if hasattr(os, "fork") else None
    if child is None:
        pytest.skip("this system has no fork")
    if child == 0:
        os._exit(0)
    if here.started:
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        zombie = Process(here.machine, child, "1")
        assert zombie.is_dead
    os.waitpid(child, 0)
    if here.started:
        assert Process(here.machine, child, "1").is_dead
        assert Process(here.machine, os.getpid(), "1").is_dead, "a later process of the same number"


def test_a_heartbeat_keeps_the_lease_and_tells_when_it_is_lost(
    folder: Folder, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    time = Time()  # of the lease; its thread beats ten times a second
    keeper = time.keeper(folder)
    lease = keeper.claim("first", ttl_s=0.3)
    lease.heartbeat()
    lost: list[StoreError] = []
    told = threading.Event()

    def on_lost(error: StoreError) -> None:
        lost.append(error)
        told.set()

    with Heartbeat(lease, on_lost):
        for _ in range(4):
            time.sleep(0.2)
            beat = repr(time.wall_s).encode()
            wait_until(lambda beat=beat: folder.read(f"{lease.fence:08d}.beat") == beat)
        assert keeper.holder() is not None, "it lives on past its time to live"
        assert not told.is_set()
        claim = Claim(lease.fence + 1, "thief", this_process(), 30.0, 0.0, "token")
        folder.put_if_absent(f"{claim.fence:08d}.claim", claim.encode())
        assert told.wait(60)
    assert lost[0].code == "STORE-FENCED"
