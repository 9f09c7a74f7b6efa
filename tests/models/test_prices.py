"""A ceiling in dollars that no price can keep is refused with the reason: prices are of an endpoint and a model."""

from __future__ import annotations

import pytest

from apwa_dask.errors import BudgetError
from apwa_dask.models.model import Model
from apwa_dask.models.prices import price_of, prices_as_of, require_prices


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (
            Model("gpt-4o-mini", base_url="https://models.example/v1"),
            f"prices hold for an endpoint, and the list of {prices_as_of()} has none of models.example",
        ),
        (
            Model("gpt-99", base_url="https://api.openai.com/v1"),
            f"the price list of {prices_as_of()} has no such model at api.openai.com",
        ),
    ],
)
def test_an_unknown_price_says_whether_the_endpoint_or_the_model_is_not_listed(
    model: Model, why: str
) -> None:
    with pytest.raises(BudgetError) as refused:
        require_prices([model], 1.0)
    assert refused.value.why is not None
    assert refused.value.why.startswith(why)
    assert f"Model({model.name!r}, price=Price(" in str(refused.value)


def test_the_same_model_has_a_price_at_the_endpoint_that_is_listed() -> None:
    require_prices([Model("gpt-4o-mini", base_url="https://api.openai.com/v1")], 1.0)


@pytest.mark.parametrize(
    ("snapshot", "usd"),
    [
        ("gpt-4o-2024-05-13", 20.0),
        ("gpt-4o-2024-11-20", 12.5),
        ("gpt-3.5-turbo-0613", 3.5),
        ("gpt-3.5-turbo-1106", 3.0),
        ("gpt-3.5-turbo-0125", 2.0),
    ],
)
def test_a_snapshot_that_costs_more_than_its_name_does_today_is_charged_at_its_own_price(
    snapshot: str, usd: float
) -> None:
    price = price_of(Model(snapshot, base_url="https://api.openai.com/v1"))
    assert price is not None
    assert price.cost_usd(1_000_000, 1_000_000) == pytest.approx(usd)
