"""What models cost: a dated table of public list prices, and the rule that unknown is None, never zero."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from urllib.parse import urlsplit

import orjson

from apwa_dask.errors import BudgetError
from apwa_dask.models.model import Model, Price

__all__ = ["is_listed", "price_of", "priced_in_batches", "prices_as_of", "require_prices", "with_prices"]

_DATED = re.compile(r"-(?:20\d{2}-?\d{2}-?\d{2}|\d{4})$")


def price_of(model: Model) -> Price | None:
    """The price of a model: its own, else the table's, else None.

    The table holds for the vendors' own endpoints only: the same weights elsewhere cost something else.
    """
    if model.price is not None:
        return model.price
    host = (urlsplit(model.resolved_base_url).hostname or "") if not model.is_local else ""
    prices = _table().get(host)
    if not prices:
        return None
    return prices.get(model.name) or prices.get(_DATED.sub("", model.name))


def is_listed(model: Model) -> bool:
    """Whether its price is the table's, and so as old as the table."""
    return model.price is None and price_of(model) is not None


def priced_in_batches(model: Model) -> Model:
    """The model at the price of its batches, where one is known."""
    price = price_of(model)
    return model if price is None else replace(model, price=price.in_batches)


def require_prices(models: Iterable[Model], budget_usd: float | None) -> None:
    """Refuse a ceiling in dollars for models of which one has no known price: it could not be kept.

    Raises
    ------
    BudgetError
    """
    unknown = next((model for model in models if price_of(model) is None), None)
    if budget_usd is None or unknown is None:
        return
    raise BudgetError(
        f"the price of model {unknown.name!r} is unknown, so a budget in US dollars cannot be kept",
        why=_why_unknown(unknown),
        fix=f"Model({unknown.name!r}, price=Price(input_usd=..., output_usd=...)) or --price IN OUT, in USD for a "
        "million tokens; or a ceiling without dollars: Budget(tokens=...), Budget(calls=...), --max-calls N",
        saved="nothing was run or paid",
        code="BUDGET-PRICE",
    )


def _why_unknown(model: Model) -> str:
    """A price is of an endpoint and a model: what is known of the endpoint says which of the two is not listed."""
    if model.is_local:
        return "it runs here, and nobody has said what that costs"
    host = urlsplit(model.resolved_base_url).hostname or "the endpoint"
    if host in _table():
        return f"the price list of {prices_as_of()} has no such model at {host}"
    return (
        f"prices hold for an endpoint, and the list of {prices_as_of()} has none of {host}: "
        "the same model costs something else at each"
    )


def with_prices(model: Model, prices: Mapping[str, Sequence[float]] | None) -> Model:
    """The model with the price that `prices` names for it, unless it has one of its own.

    Parameters
    ----------
    model : Model
    prices : mapping of str to sequence of float, optional
        US dollars for a million tokens: input, output and, where it differs, cached input.
    """
    stated = (prices or {}).get(model.name)
    return model if stated is None or model.price is not None else replace(model, price=Price(*stated))


def prices_as_of() -> str:
    """Date of the table, ISO."""
    return str(_document()["as_of"])


@cache
def _document() -> dict[str, object]:
    # not importlib.resources, whose own import takes milliseconds: the first call of a worker waits for this
    data = pkgutil.get_data("apwa_dask.models", "prices.json")
    assert data is not None
    document: dict[str, object] = orjson.loads(data)
    return document


@cache
def _table() -> dict[str, dict[str, Price]]:
    hosts = _document()["usd_per_million_tokens"]
    assert isinstance(hosts, dict)
    return {
        host: {name: Price(*numbers) for name, numbers in models.items()} for host, models in hosts.items()
    }
