"""`Model`: a picklable description of one model at one endpoint. No client, no key value, no I/O."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal
from urllib.parse import urlsplit

from apwa_dask.errors import ConfigError

__all__ = ["LOCAL_SCHEME", "Model", "Price"]

DEFAULT_BASE_URL = "https://api.openai.com/v1"
LOCAL_SCHEME = "local:"
"""Base URL of the embedded model: the address and key of its server are known only on its own machine."""

Structured = Literal["json_schema", "json_object", "text"]


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens. In a batch each costs ``batch_factor`` times that: half, mostly."""

    input_usd: float
    output_usd: float
    cached_input_usd: float | None = None
    batch_factor: float = 0.5

    def cost_usd(self, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> float:
        """Price of one call."""
        cached_rate = self.input_usd if self.cached_input_usd is None else self.cached_input_usd
        fresh = max(input_tokens - cached_tokens, 0)
        return (fresh * self.input_usd + cached_tokens * cached_rate + output_tokens * self.output_usd) / 1e6

    @property
    def in_batches(self) -> Price:
        """What the same tokens cost in a batch."""
        cached = None if self.cached_input_usd is None else self.cached_input_usd * self.batch_factor
        return Price(self.input_usd * self.batch_factor, self.output_usd * self.batch_factor, cached, 1.0)


@dataclass(frozen=True)
class Model:
    """One model at one OpenAI-compatible endpoint.

    Parameters
    ----------
    name : str
        The model's name as the endpoint knows it.
    base_url : str, optional
        Endpoint; default ``OPENAI_BASE_URL``, else the OpenAI API. ``local:`` is the embedded model.
    api_key_env : str
        Name of the environment variable that holds the key, read on the machine that makes the call.
    temperature, top_p, seed : optional
        Generation parameters; sent only when given.
    max_output_tokens : int, optional
        Ceiling of one answer; contracts may set a lower or higher one.
    context_tokens : int, optional
        Window of the model; longer prompts fail as ``too_large`` without a call.
    price : Price, optional
        Overrides the price table; a model in neither has an unknown price, shown as unknown.
    structured : str
        How answers are constrained: ``json_schema``, ``json_object`` or ``text``. The engine steps down by
        itself where the endpoint declines.
    prompts : str
        ``standard``, or ``small`` for models of a few billion parameters (label descriptions, compact
        examples).
    transport : str
        ``auto``: pooled HTTP/1.1 connections of our own, or aiohttp where the environment names a proxy;
        ``aiohttp`` in any case; or ``sdk`` for the official client.
    client : str
        With ``sdk``: name of a client factory registered with `sdk.register_client`; the official client if
        empty.
    timeout_s : float
        Wall-clock deadline of one attempt.
    max_concurrency : int
        Calls in flight at this endpoint, over all processes.
    hedge : bool
        Send a request once more when its answer is late (later than 95 % of its contract's), and take the first
        answer: at most 2 % of the calls, both billed. Never for contracts with tools.
    extra : mapping
        Further body fields, sent as they are.

    Examples
    --------
    >>> Model("gpt-test", base_url="http://127.0.0.1:9/v1").endpoint_identity
    'http://127.0.0.1:9/v1'
    """

    name: str
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    max_output_tokens: int | None = None
    max_tokens_field: str = "max_tokens"
    context_tokens: int | None = None
    price: Price | None = None
    structured: Structured = "json_schema"
    prompts: Literal["standard", "small"] = "standard"
    transport: Literal["auto", "aiohttp", "sdk"] = "auto"
    client: str = ""
    timeout_s: float = 120.0
    max_concurrency: int = 64
    hedge: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("a model needs a name", fix='Model("name-of-the-model")', code="CONFIG-MODEL")
        if not self.timeout_s > 0 or self.max_concurrency < 1:
            raise ConfigError(
                "timeout_s and max_concurrency of a model must be positive", code="CONFIG-MODEL"
            )
        if urlsplit(self.base_url or "").password:
            raise ConfigError(
                "base_url must not carry a password",
                why="plans, manifests and reports name the endpoint",
                fix="put the key into an environment variable and name it in api_key_env",
                code="CONFIG-MODEL",
            )

    @classmethod
    def local(cls, name: str = "qwen2.5-coder-1.5b", **changes: Any) -> Model:
        """The embedded model: runs on this machine, needs no key, costs nothing."""
        settings: dict[str, Any] = {
            "base_url": LOCAL_SCHEME,
            "api_key_env": "",
            "temperature": 0.0,
            "max_output_tokens": 512,
            "context_tokens": 4096,
            "price": Price(0.0, 0.0),
            "prompts": "small",
            "timeout_s": 900.0,
            "max_concurrency": 4,
        }
        return cls(name, **{**settings, **changes})

    @property
    def is_local(self) -> bool:
        """The embedded model."""
        return (self.base_url or "").startswith(LOCAL_SCHEME)

    @property
    def resolved_base_url(self) -> str:
        """The endpoint, the environment's default applied."""
        return (self.base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL).rstrip("/")

    @property
    def endpoint_identity(self) -> str:
        """What identifies the endpoint in fingerprints and gates: never a key, never a port of ours."""
        return LOCAL_SCHEME if self.is_local else self.resolved_base_url

    def sent_parameters(self) -> Iterator[tuple[str, Any]]:
        """Generation parameters that go into the body, in a fixed order."""
        for name in ("temperature", "top_p", "seed"):
            if getattr(self, name) is not None:
                yield name, getattr(self, name)
        yield from sorted(self.extra.items())

    def canonical_parameters(self) -> dict[str, Any]:
        """Generation parameters with explicit null for what is omitted: part of the fingerprint."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "extra": dict(sorted(self.extra.items())),
        }

    def pinned(self) -> Model:
        """This model with the environment's endpoint written in, as it travels to workers."""
        return self if self.is_local else replace(self, base_url=self.resolved_base_url)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for specs and manifests."""
        data = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "price"}
        data["extra"] = dict(self.extra)
        data["price"] = None if self.price is None else [
            self.price.input_usd, self.price.output_usd, self.price.cached_input_usd, self.price.batch_factor,
        ]  # fmt: skip
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Model:
        """Inverse of `as_dict`."""
        price = data.get("price")
        return cls(**{**data, "price": None if price is None else Price(*price)})
