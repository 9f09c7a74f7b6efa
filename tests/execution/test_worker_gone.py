"""What a worker held is for the others as soon as the scheduler knows that it is gone, not when its lease ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from apwa_dask.execution.plugin import CoordinatorPlugin
from apwa_dask.models.claimed import DIGEST_BYTES, ELSEWHERE, YOURS, ClaimBook
from apwa_dask.models.coordinator import Coordinator
from apwa_dask.models.leases import Report, Want

WANT = Want(concurrency=64, max_concurrency=64)
KEY = "k" * DIGEST_BYTES


def test_share_and_claims_of_a_worker_that_died_are_free_at_once() -> None:
    plugin = CoordinatorPlugin()
    plugin.coordinator, plugin.claims = Coordinator(lambda: 0.0), ClaimBook(lambda: 0.0)  # no time passes
    scheduler: Any = SimpleNamespace(workers={"tcp://b": None})

    def share_of(worker: str) -> int:
        return plugin.coordinator.lease(worker, "gate", WANT, Report(admitted=1)).concurrency

    def state_for(worker: str) -> int:
        return plugin.claims.exchange(worker, "room", KEY.encode(), b"", b"")[0]

    assert (share_of("tcp://a"), state_for("tcp://a")) == (64, YOURS)
    assert (share_of("tcp://b"), state_for("tcp://b")) == (0, ELSEWHERE)
    plugin.remove_worker(scheduler, "tcp://a", stimulus_id="handle-worker-cleanup-1")
    assert (share_of("tcp://b"), state_for("tcp://b")) == (64, YOURS)
