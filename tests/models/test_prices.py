"""A ceiling in dollars that no price can keep is refused with the reason: prices are of an endpoint and a model."""

from __future__ import annotations

import pytest

from apwa_dask.errors import BudgetError
from apwa_dask.models.model import Model
from apwa_dask.models.prices import prices_as_of, require_prices


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
