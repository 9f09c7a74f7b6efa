"""The endpoints of one process: keys looked up here, sessions pooled here, one lane for each model.

A `Lane` is everything that calls of one model share: transport, gate, price, what was learned about it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from apwa_dask.errors import ProviderError
from apwa_dask.models.accounting import counted_less
from apwa_dask.models.adapt import Adaptation
from apwa_dask.models.checkup import Checkup
from apwa_dask.models.gate import Gate
from apwa_dask.models.headers import Announced, announced
from apwa_dask.models.http1 import Http1Transport
from apwa_dask.models.leases import LeaseFn, Notice
from apwa_dask.models.model import Model, Price
from apwa_dask.models.outcomes import Retry, Verdict
from apwa_dask.models.prices import price_of
from apwa_dask.models.tokens import TokenRatio
from apwa_dask.models.transport import AiohttpTransport, Raw, Transport, endpoint_url, proxy_for
from apwa_dask.models.types import OutcomeClass

if TYPE_CHECKING:
    from apwa_dask.models.local import LocalEndpoint

__all__ = ["Endpoints", "Lane", "key_hash"]

LIMITS_EVERY_S = 0.05
"""Headers of limits are read at most so often: they change slowly and reading them is not free."""


@dataclass(slots=True)
class Lane:
    """What all calls of one model in one process share."""

    model: Model
    wire_name: str
    transport: Transport
    gate: Gate
    price: Price | None
    secrets: tuple[str, ...] = field(repr=False)
    context_tokens: int | None = None
    ratio: TokenRatio = field(default_factory=TokenRatio)
    adaptation: Adaptation = field(default_factory=Adaptation)
    checkup: Checkup = field(default_factory=Checkup)
    limits_read_s: float = float("-inf")
    hedges: int = 0

    def observe(
        self,
        number: int,
        raw: Raw,
        verdict: Verdict,
        now_s: float,
        *,
        first: bool,
        most_output: int | None = None,
    ) -> None:
        """Tell the gate how an attempt ended, while its slot is still held.

        Parameters
        ----------
        most_output : int, optional
            Ceiling of the answer's tokens.
        """
        gate = self.gate
        if verdict.retry is Retry.THROTTLED:
            limits = self._limits(raw, now_s)
            if limits:
                gate.heard(limits)
            left = limits.tokens.remaining if limits.tokens is not None else 0.0
            gate.throttled(number, verdict.wait_s, lacks_tokens=limits.lack_tokens, left=left)
        elif verdict.outcome in (OutcomeClass.TRANSIENT, OutcomeClass.DEADLINE):
            if verdict.overloaded:
                gate.overloaded(number)
            if first or gate.outage:
                gate.failed()
        elif not verdict.fatal:
            if now_s - self.limits_read_s >= LIMITS_EVERY_S:
                limits = self._limits(raw, now_s)
                if limits:
                    gate.heard(limits, counted_less=_counted_less(limits, verdict, most_output))
            gate.succeeded()

    def _limits(self, raw: Raw, now_s: float) -> Announced:
        self.limits_read_s = now_s
        return announced(raw.headers)


def _counted_less(limits: Announced, verdict: Verdict, most_output: int | None) -> bool:
    usage = verdict.completion.usage if verdict.completion is not None else None
    if limits.tokens is None or usage is None or most_output is None:
        return False
    return limits.counts_made or counted_less(limits.tokens, usage, most_output)


@dataclass(frozen=True, slots=True)
class _Site:
    """Where a model is served, as known on this machine."""

    base_url: str
    api_key: str = field(repr=False)
    model_name: str
    slots: int | None = None
    context_tokens: int | None = None


class Endpoints:
    """Pools of one process, on the event loop it is first used on.

    Parameters
    ----------
    lease : callable, optional
        Way to the coordinator; see `coordinator.LocalLease` for the one in this process.
    environ : mapping, optional
        Where keys are looked up; default this process's environment.
    acquire_local, release_local : callable, optional
        Start or find the embedded model's server, and leave it; default those of `apwa_dask.models.local`.
        Called in a thread.
    """

    def __init__(
        self,
        lease: LeaseFn | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        acquire_local: Callable[[Model], LocalEndpoint] | None = None,
        release_local: Callable[[LocalEndpoint], None] | None = None,
        rng: random.Random | None = None,
        probe: bool = True,
    ) -> None:
        self._lease = lease
        self._environ = os.environ if environ is None else environ
        self._acquire_local = acquire_local or _acquire_local
        self._release_local = release_local or _release_local
        self._rng = rng or random.Random()
        self._probe = probe
        self._lanes: dict[tuple[Model, str], Lane] = {}
        self._gates: dict[str, Gate] = {}
        self._transports: dict[tuple[str, str, str, str], Transport] = {}
        self._local: dict[Model, LocalEndpoint] = {}
        self._opening = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def lane(self, model: Model) -> Lane:
        """The lane of a model, opened at first use.

        Raises
        ------
        ProviderError
            No key where one is wanted.
        ConfigError
            The address is not one.
        LocalModelError
            The embedded model cannot be had.
        """
        self._stay_on_one_loop()
        async with self._opening:
            site = await self._site(model)
            key = (model, site.base_url + "\0" + key_hash(site.api_key))
            lane = self._lanes.get(key)
            if lane is None:
                lane = self._lanes[key] = self._open(model, site)
            return lane

    async def reopen(self, lane: Lane) -> None:
        """Find the embedded model's server again, after a connection to it failed; others stay as they are.

        Raises
        ------
        LocalModelError
            It cannot be started again.
        """
        if not lane.model.is_local:
            return
        async with self._opening:
            self._local.pop(lane.model, None)
            site = await self._local_site(lane.model)
            lane.transport = self._transport(lane.model, site)
            lane.secrets = (site.api_key,)

    def gates(self) -> list[Gate]:
        """All gates, for a progress line or a status page."""
        return list(self._gates.values())

    def notice(self, notice: Notice) -> None:
        """Tell a gate what the coordinator sent unasked; on the loop."""
        gate = self._gates.get(notice.gate_key)
        if gate is not None:
            gate.noticed(notice)

    async def close(self) -> None:
        """Close gates and sessions. Calls in flight fail."""
        for gate in self._gates.values():
            await gate.close()
        for transport in self._transports.values():
            await transport.close()
        for found in self._local.values():
            await asyncio.to_thread(self._release_local, found)
        self._local.clear()
        self._lanes.clear()
        self._gates.clear()
        self._transports.clear()

    def _open(self, model: Model, site: _Site) -> Lane:
        wire_model = replace(model, base_url=site.base_url)
        return Lane(
            model=model,
            wire_name=site.model_name,
            transport=self._transport(wire_model, site),
            gate=self._gate(model, site),
            price=price_of(model),
            secrets=(site.api_key,) if site.api_key else (),
            context_tokens=model.context_tokens or site.context_tokens,
        )

    def _gate(self, model: Model, site: _Site) -> Gate:
        key = f"{model.endpoint_identity}|{key_hash(site.api_key)}|{model.name}"
        gate, most = self._gates.get(key), model.max_concurrency
        if gate is not None and gate.max_concurrency != most:
            gate.resize(most)
        if gate is None:
            gate = self._gates[key] = Gate(
                key,
                max_concurrency=most,
                start=site.slots,
                lease=self._lease,
                rng=self._rng,
                probe=self._probe,
            )
        return gate

    def _transport(self, model: Model, site: _Site) -> Transport:
        key = (site.base_url, key_hash(site.api_key), model.transport, model.client)
        transport = self._transports.get(key)
        if transport is None:
            transport = self._transports[key] = _new_transport(model, site)
        return transport

    async def _site(self, model: Model) -> _Site:
        if model.is_local:
            return await self._local_site(model)
        return _Site(model.resolved_base_url, self._key(model), model.name)

    async def _local_site(self, model: Model) -> _Site:
        found = self._local.get(model)
        if found is None:
            # Starting a server takes seconds, fetching weights minutes: not on the loop.
            found = self._local[model] = await asyncio.to_thread(self._acquire_local, model)
        return _Site(found.base_url, found.api_key, found.model_name, found.slots, found.n_ctx)

    def _key(self, model: Model) -> str:
        if not model.api_key_env:
            return ""
        key = self._environ.get(model.api_key_env, "").strip()
        if key:
            return key
        raise ProviderError(
            f"no API key for {model.endpoint_identity}",
            where=f"environment variable {model.api_key_env} of process {os.getpid()}: not set or empty",
            why="keys are read on the machine that makes the call, so each worker needs the variable",
            fix=f"export {model.api_key_env}=..., or name another variable in api_key_env "
            '("" for an endpoint without keys), or use Model.local()',
            code="PROVIDER-KEY",
        )

    def _stay_on_one_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError("an Endpoints object belongs to the event loop it was first used on")


def _acquire_local(model: Model) -> LocalEndpoint:
    from apwa_dask.models.local import acquire

    if model.context_tokens is None:
        return acquire(model.name, slots=model.max_concurrency)
    return acquire(model.name, slots=model.max_concurrency, n_ctx=model.context_tokens)


def _release_local(endpoint: LocalEndpoint) -> None:
    from apwa_dask.models.local import release

    release(endpoint)


def _new_transport(model: Model, site: _Site) -> Transport:
    if model.transport == "sdk":
        from apwa_dask.models.sdk import SdkTransport

        return SdkTransport(site.base_url, site.api_key, client=model.client)
    # The embedded model is on loopback: no proxy can reach it, whatever the environment says.
    local = site.slots is not None
    if model.transport == "auto" and (local or proxy_for(endpoint_url(site.base_url, "")) is None):
        return Http1Transport(site.base_url, site.api_key)
    return AiohttpTransport(site.base_url, site.api_key, use_proxies=not local)


def key_hash(api_key: str) -> str:
    """What tells two keys apart without telling either: 16 hex digits of the SHA-256; empty for no key."""
    return hashlib.sha256(api_key.encode()).hexdigest()[:16] if api_key else ""
