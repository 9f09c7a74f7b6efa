"""What a worker that leaves cannot give back is said, with the reason, and keeps no other run's money back."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from apwa_dask.execution import clients
from apwa_dask.execution.clients import return_money
from apwa_dask.execution.loop import run_sync
from apwa_dask.models.budget import Budget, Wallet
from apwa_dask.models.coordinator import Coordinator, LocalLease
from apwa_dask.models.leases import Money, MoneyReport


class _Broken(LocalLease):
    """A way that lends, and cannot take back."""

    async def fund(self, account: str, least: Money, wanted: Money, report: MoneyReport) -> Any:
        if not least:
            raise ValueError("the answer cannot be read")
        return await super().fund(account, least, wanted, report)


def test_money_that_cannot_be_given_back_is_logged_with_the_reason_and_stops_no_other(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator, budget = Coordinator(), Budget(calls=10)

    async def story() -> None:
        wallets = []
        for account, way in (("broken", _Broken), ("sound", LocalLease)):
            coordinator.open_account(account, budget)
            wallets.append(Wallet(budget, account=account, fund=way(coordinator, account).fund))
            await wallets[-1].reserve(Money(calls=1))
            wallets[-1].settle(Money(calls=1), Money(calls=1))
        monkeypatch.setattr(clients, "_WALLETS", wallets)
        await return_money()

    with caplog.at_level(logging.WARNING, logger=clients.__name__):
        run_sync(story())

    (said,) = [record.getMessage() for record in caplog.records if record.name == clients.__name__]
    assert said.startswith("run broken: ")
    assert said.endswith("ValueError: the answer cannot be read")
    coordinator.release_holder("sound")
    assert coordinator.spent("sound").calls == 1  # the rest came back, and is not lost with its holder
