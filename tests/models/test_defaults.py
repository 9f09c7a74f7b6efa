"""Which model is meant, what it costs, and which lane serves it."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import pytest

from apwa_dask.errors import ConfigError, LocalModelError, ProviderError
from apwa_dask.models.client import Client
from apwa_dask.models.defaults import default_model, resolve_models
from apwa_dask.models.endpoints import Endpoints
from apwa_dask.models.model import Model, Price
from apwa_dask.models.prices import price_of, prices_as_of, with_prices
from apwa_dask.models.types import Message, OutcomeClass, Purpose, Request, Template
from apwa_dask.testing import ScriptedServer


def test_without_an_endpoint_the_embedded_model_is_meant() -> None:
    assert default_model({}) == Model.local()


def test_a_configured_endpoint_needs_the_name_of_a_model() -> None:
    with pytest.raises(ConfigError, match="OPENAI_MODEL"):
        default_model({"OPENAI_API_KEY": "x"})
    model = default_model({"OPENAI_API_KEY": "x", "OPENAI_MODEL": "m"})
    assert (model.name, model.api_key_env) == ("m", "OPENAI_API_KEY")


def test_a_server_of_one_s_own_needs_no_key() -> None:
    model = default_model({"OPENAI_BASE_URL": "http://127.0.0.1:8000/v1", "OPENAI_MODEL": "m"})
    assert model.api_key_env == ""


def test_models_are_named_by_words_descriptors_and_aliases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    small = Model("small")
    assert resolve_models("local") == {"": Model.local()}
    assert resolve_models("local:qwen2.5-coder-0.5b")[""].name == "qwen2.5-coder-0.5b"
    assert resolve_models("big")[""] == Model("big")
    assert resolve_models(small) == {"": small}
    assert resolve_models({"cheap": small, "big": "big"}) == {"cheap": small, "big": Model("big"), "": small}


@pytest.mark.parametrize("nonsense", ["", "  ", 5, {}, {"a": None}])
def test_what_names_no_model_is_refused(nonsense: Any) -> None:
    with pytest.raises(ConfigError):
        resolve_models(nonsense)


# -- prices


def test_a_price_belongs_to_the_vendor_s_own_endpoint() -> None:
    here = Model("gpt-4o-mini", base_url="https://api.openai.com/v1")
    assert price_of(here) == Price(0.15, 0.6, 0.075)
    assert price_of(replace(here, name="gpt-4o-mini-2024-07-18")) == price_of(here)
    assert price_of(replace(here, base_url="http://127.0.0.1:8000/v1")) is None


def test_an_unknown_price_is_none_and_never_zero() -> None:
    assert price_of(Model("never-heard-of", base_url="https://api.openai.com/v1")) is None


def test_a_price_of_one_s_own_wins_and_the_embedded_model_is_free() -> None:
    own = Price(1.0, 2.0)
    assert price_of(Model("gpt-4o-mini", base_url="https://api.openai.com/v1", price=own)) == own
    assert price_of(Model.local()) == Price(0.0, 0.0)


def test_the_table_is_dated_and_every_price_makes_sense() -> None:
    from apwa_dask.models.prices import _table

    assert date.fromisoformat(prices_as_of()) <= date.today()
    for models in _table().values():
        for price in models.values():
            assert 0 < price.input_usd <= price.output_usd
            assert price.cached_input_usd is None or 0 < price.cached_input_usd < price.input_usd


# -- descriptors and lanes


def test_a_model_travels_whole_and_without_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-CANARY")
    model = Model("m", extra={"x": [1]}, price=Price(1, 2), transport="sdk", client="azure")
    assert pickle.loads(pickle.dumps(model)) == model
    assert Model.from_dict(model.as_dict()) == model
    assert b"CANARY" not in pickle.dumps(model)


@dataclass
class FakeLocal:
    """Stands for the embedded model's server."""

    server: ScriptedServer
    started: int = 0
    left: int = 0
    broken: bool = False
    port: int | None = None

    def acquire(self, model: Model) -> Any:
        if self.broken:
            raise LocalModelError("no weights", fix="apwa fetch")
        self.started += 1
        base_url = self.server.base_url if self.port is None else f"http://127.0.0.1:{self.port}/v1"
        self.port = None
        fields = {
            "base_url": base_url,
            "api_key": "local-key",
            "slots": 2,
            "model_name": "served",
            "n_ctx": 2048,
        }
        return type("LocalEndpoint", (), fields)()

    def release(self, endpoint: Any) -> None:
        self.left += 1


def ask_local(local: FakeLocal, count: int) -> list[Any]:
    async def story() -> list[Any]:
        endpoints = Endpoints(acquire_local=local.acquire, release_local=local.release)
        client = Client(endpoints)
        template = Template(Model.local("qwen"), (Message("system", "Answer."),))
        calls = [client.call(Request(template, (Message("user", str(i)),)), Purpose()) for i in range(count)]
        try:
            return await asyncio.gather(*calls, return_exceptions=True)
        finally:
            await endpoints.close()

    return asyncio.run(story())


def test_the_embedded_model_is_started_once_and_left_once(serve: Any) -> None:
    local = FakeLocal(serve(api_key="local-key", models=("served",), latency_s=0.01))
    replies = ask_local(local, 12)
    assert {reply.outcome for reply in replies} == {OutcomeClass.OK}
    assert {reply.cost_usd for reply in replies} == {0.0}
    assert (local.started, local.left) == (1, 1)
    assert local.server.max_in_flight <= 4


def test_an_embedded_server_that_died_is_found_again(serve: Any) -> None:
    local = FakeLocal(serve(api_key="local-key"), port=9)
    (reply,) = ask_local(local, 1)
    assert (reply.outcome, reply.attempts, local.started) == (OutcomeClass.OK, 2, 2)


def test_an_embedded_model_that_cannot_be_had_stops_with_its_own_words(serve: Any) -> None:
    outcomes = ask_local(FakeLocal(serve(), broken=True), 3)
    assert {type(outcome) for outcome in outcomes} == {LocalModelError}


def test_preflight_finds_a_missing_key_without_a_call(serve: Any) -> None:
    async def story() -> None:
        endpoints = Endpoints(environ={})
        with pytest.raises(ProviderError, match="MY_KEY"):
            await Client(endpoints).preflight(
                Model("m", base_url="http://127.0.0.1:9/v1", api_key_env="MY_KEY")
            )
        await endpoints.close()

    asyncio.run(story())


def test_gates_are_one_for_endpoint_key_and_model_whatever_the_client(serve: Any) -> None:
    async def story() -> None:
        endpoints = Endpoints(environ={"ONE": "key-1", "TWO": "key-2", "SAME": "key-1"})
        here = Model("m", base_url="http://127.0.0.1:9/v1", api_key_env="ONE")
        variants = [here, replace(here, temperature=0.5), replace(here, api_key_env="SAME")]
        others = [replace(here, api_key_env="TWO"), replace(here, name="n")]
        gates = [(await endpoints.lane(model)).gate for model in [*variants, *others]]
        assert len({id(gate) for gate in gates[:3]}) == 1
        assert len({id(gate) for gate in gates}) == 3
        assert all("key-" not in gate.key for gate in gates)
        await endpoints.close()

    asyncio.run(story())


def test_the_lean_client_does_not_import_the_official_one() -> None:
    code = (
        "import sys, apwa_dask.models.client; print(sorted({'openai', 'httpx2', 'dask'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_stated_prices_come_before_the_table_and_after_the_models_own() -> None:
    prices = {"gpt-4o-mini": [1.0, 2.0], "mine": [3.0, 4.0, 0.5]}
    assert with_prices(Model("gpt-4o-mini"), prices).price == Price(1.0, 2.0)
    assert with_prices(Model("mine"), prices).price == Price(3.0, 4.0, 0.5)
    assert with_prices(Model("mine", price=Price(9.0, 9.0)), prices).price == Price(9.0, 9.0)
    assert with_prices(Model("other"), prices).price is None
    assert with_prices(Model("other"), None) == Model("other")
