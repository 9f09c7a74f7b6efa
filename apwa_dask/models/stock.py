"""A gate's stock of permits, and its standing question to the coordinator."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from apwa_dask.errors import ApwaError
from apwa_dask.models.headers import Announced
from apwa_dask.models.leases import Grant, LeaseFn, Report, Want

if TYPE_CHECKING:
    from apwa_dask.models.gate import Gate

__all__ = ["Stock"]

INFINITE = float("inf")
RETRY_S = 1.0


class Stock:
    """Permits leased in blocks. Asks again at half use, at the renewal time, and at once after a refusal.

    One question is under way at most. While the coordinator does not answer, the last grant holds until it
    expires; then nothing is sent until it answers again.

    Attributes
    ----------
    share : int
        Calls in flight that this process may have.
    admitted, throttled, pause_s, limits
        Collected for the next report.
    """

    def __init__(self, gate: Gate, ask: LeaseFn) -> None:
        self.share = 1
        self.admitted = self.throttled = 0
        self.pause_s = 0.0
        self.limits = Announced()
        self._gate = gate
        self._ask = ask
        self._loop = asyncio.get_running_loop()
        self._requests, self._half_requests = INFINITE, -INFINITE
        self._tokens, self._half_tokens = INFINITE, -INFINITE
        self._penalties = 0
        self._expires_at = INFINITE
        self._urgent = False
        self._task: asyncio.Task[None] | None = None
        self._promises: set[asyncio.TimerHandle] = set()
        self._renewal: asyncio.TimerHandle | None = None
        self._closed = False

    def take(self, tokens: int = 0) -> bool:
        """Use one permit, and expected tokens, if there are any.

        A call larger than what is left of the tokens goes, and leaves a debt: else it would wait for ever
        where the limit is small.
        """
        if self._requests < 1 or self._tokens <= 0:
            self.ask_soon()
            return False
        self._requests -= 1
        self._tokens -= tokens
        if (
            self._requests <= self._half_requests
            or self._tokens <= self._half_tokens
            or self._renewal is None
        ):
            self.ask_soon()
        return True

    def heard(self, limits: Announced) -> None:
        """Keep announced limits for the next report.

        The first of them are worth a question of their own, and nothing more is sent before its answer: a
        burst into a limit just heard of would be refused.
        """
        self.limits = limits
        if limits.requests is not None and self._requests == INFINITE:
            self._requests = 0.0
            self.ask_soon(urgent=True)
        if limits.tokens is not None and self._tokens == INFINITE:
            self._tokens = 0.0
            self.ask_soon(urgent=True)

    def ask_soon(self, *, urgent: bool = False) -> None:
        """Ask, unless a question is under way or a block is promised; `urgent` asks again after it."""
        if self._closed or (self._promises and not urgent):
            return
        if self._task is not None:
            self._urgent = self._urgent or urgent
            return
        self._task = self._loop.create_task(self._question())

    async def _question(self) -> None:
        report = Report(self.admitted, self.throttled, 0, self.pause_s, self.limits)
        self.admitted, self.throttled, self.pause_s, self.limits = 0, 0, 0.0, Announced()
        try:
            grant = await self._ask(self._gate.key, self._want(), report)
        except OSError:
            self._unanswered(report)
        except Exception as error:
            # A defect on the other side. Who waits here must hear of it, or the run would hang without a
            # word.
            why = f"{type(error).__name__} in the coordinator"
            self._gate.fail(ApwaError("the lease of capacity failed", why=why, code="LEASE"))
        else:
            if not self._closed:
                self._take_over(grant, reported_throttle=report.throttled > 0)
        finally:
            self._task = None
        if self._urgent and not self._closed:
            self._urgent = False
            self.ask_soon(urgent=True)

    def _want(self) -> Want:
        waiting = self._gate.waiting
        short_of_requests = self._requests <= self._half_requests or self._requests < 1
        short_of_tokens = self._tokens <= self._half_tokens or self._tokens <= 0
        return Want(
            concurrency=max(1, self._gate.in_flight + waiting),
            requests=max(1, waiting) if short_of_requests or self._requests == INFINITE else 0,
            tokens=max(1, self._gate.waiting_tokens) if short_of_tokens or self._tokens == INFINITE else 0,
            max_concurrency=self._gate.max_concurrency,
        )

    def _unanswered(self, report: Report) -> None:
        self.admitted += report.admitted
        self.throttled += report.throttled
        self.pause_s = max(self.pause_s, report.pause_s)
        if self._loop.time() >= self._expires_at:
            self._requests = 0.0
        self._renew_in(RETRY_S)

    def _take_over(self, grant: Grant, *, reported_throttle: bool) -> None:
        self.share = grant.concurrency
        self._expires_at = self._loop.time() + grant.expires_s
        # The penalty that our own report caused was paid when it happened.
        penalised = grant.penalties - self._penalties > int(reported_throttle)
        self._penalties = grant.penalties
        if grant.requests is None:
            self._requests, self._half_requests = INFINITE, -INFINITE
        elif self._requests == INFINITE:
            self._requests = 0.0
        if grant.tokens is None:
            self._tokens, self._half_tokens = INFINITE, -INFINITE
        elif self._tokens == INFINITE:
            self._tokens = 0.0
        self._promise(grant.requests or 0, grant.tokens or 0, grant.start_in_s)
        self._renew_in(grant.renew_s)
        self._gate.granted(grant, penalised=penalised)

    def _promise(self, requests: int, tokens: int, in_s: float) -> None:
        if not requests and not tokens:
            return
        if in_s <= 0:
            self._add(requests, tokens)
            return

        def arrive() -> None:
            self._promises.discard(handle)
            self._add(requests, tokens)
            self._gate.restocked()

        handle = self._loop.call_later(in_s, arrive)
        self._promises.add(handle)

    def _add(self, requests: int, tokens: int) -> None:
        if requests:
            self._requests += requests
            self._half_requests = self._requests // 2
        if tokens:
            self._tokens += tokens
            self._half_tokens = self._tokens // 2

    def _renew_in(self, seconds: float) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
        self._renewal = self._loop.call_later(seconds, self._renew)

    def _renew(self) -> None:
        """Only while in use: an idle gate lets its share expire and return."""
        self._renewal = None
        if self._gate.in_flight or self._gate.waiting:
            self.ask_soon(urgent=True)

    async def close(self) -> None:
        """Cancel the timers and the question under way."""
        self._closed = True
        for handle in self._promises:
            handle.cancel()
        if self._renewal is not None:
            self._renewal.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
