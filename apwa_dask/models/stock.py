"""A gate's stock of permits, and its standing question to the coordinator."""

from __future__ import annotations

import asyncio
import math
import secrets
from typing import TYPE_CHECKING

from apwa_dask.errors import ApwaError
from apwa_dask.models.headers import Announced
from apwa_dask.models.leases import Grant, LeaseFn, Notice, Report, Want
from apwa_dask.models.pace import BLOCK_S

if TYPE_CHECKING:
    from apwa_dask.models.gate import Gate

__all__ = ["Stock"]

INFINITE = float("inf")
RETRY_S = 1.0

DRIP_S = 0.05
"""Permits of a pace are counted at most so often: several at once where it is fast."""


class Stock:
    """Permits leased in blocks, or ripening at a leased pace.

    Asks again at half use, at the renewal time, and at once after a refusal. One question is under way and one
    block is promised at most. While the coordinator does not answer, the last grant holds until it expires; then
    nothing is sent until it answers again.

    Attributes
    ----------
    share : int
        Calls in flight that this process may have.
    admitted, throttled, counted_less, tokens_refused, pause_s, limits
        Collected for the next report.
    """

    def __init__(self, gate: Gate, ask: LeaseFn) -> None:
        self.share = 0
        self.admitted = self.throttled = self.counted_less = self.tokens_refused = 0
        self.pause_s = 0.0
        self.limits = Announced()
        self._gate = gate
        self._ask = ask
        self._loop = asyncio.get_running_loop()
        self._requests, self._half_requests = 0.0, -INFINITE  # until the first grant
        self._tokens, self._half_tokens = INFINITE, -INFINITE
        self._paced = False
        self._requests_per_s = self._tokens_per_s = 0.0
        self._ripe_at = 0.0
        self._drip: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._asked_at, self._asked_sent = self._loop.time(), 0
        self._told_all = False
        self._told_idle = True
        self._epoch = 0
        self._penalties = 0
        self._series, self._number, self._heard = secrets.randbits(60), 0, 0
        self._expires_at = INFINITE
        self._urgent = False
        self._task: asyncio.Task[None] | None = None
        self._promises: set[asyncio.TimerHandle] = set()
        self._renewal: asyncio.TimerHandle | None = None
        self._closed = False

    def take(self, tokens: int = 0) -> bool:
        """Use one permit, and expected tokens, if there are any.

        Of a pace a call larger than what is ripe of the tokens goes, and leaves a debt: else it would wait for ever
        where the pace is slow. Permits are booked for whole calls.
        """
        if self._lacks(tokens) and not self._ripened():
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

    @property
    def limits_tokens(self) -> bool:
        """The endpoint is known to limit tokens."""
        return self._tokens != INFINITE

    def _lacks(self, tokens: int) -> bool:
        """A call that needs so many may not go now."""
        return self._requests < 1 or self._tokens <= 0 or (self._tokens < tokens and not self._paced)

    def settle(self, unused: int) -> None:
        """Take back what was reserved and not counted; negative: what was counted beyond.

        Of a pace not more than a second's, beyond which an endpoint need not have kept it.
        """
        before = self._tokens
        if before == INFINITE or not unused:
            return
        self._tokens += unused
        if self._paced and unused > 0:
            self._tokens = min(self._tokens, max(before, self._tokens_per_s))
        if before <= 0 < self._tokens or (unused > 0 and not self._paced):
            self._gate.restocked()

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
        """Ask, unless a question is under way, a block is promised, or the coordinator knows already.

        `urgent` asks in any case, after the question that is under way.
        """
        if self._closed or ((self._promises or self._told_all) and not urgent):
            return
        if self._task is not None:
            self._urgent = self._urgent or urgent
            return
        self._task = self._loop.create_task(self._question())

    def wanted(self) -> None:
        """A call waits for a share, and the coordinator knows of none."""
        if self._told_idle:
            self._told_idle = False
            self.ask_soon(urgent=True)

    async def _question(self) -> None:
        report = self._report()
        if not self._gate.in_flight and not self._gate.waiting:
            self.share = 0  # given back with this question, not with the one after it
            self._gate.shared()
        want = self._want()
        try:
            grant = await self._ask(self._gate.key, want, report)
        except OSError:
            self._unanswered(report)
        except Exception as error:
            # A defect on the other side. Who waits here must hear of it, or the run would hang without a
            # word.
            why = f"{type(error).__name__} in the coordinator"
            self._gate.fail(ApwaError("the lease of capacity failed", why=why, code="LEASE"))
        else:
            if not self._closed:
                self._take_over(want, grant, reported_throttle=report.throttled > 0)
        finally:
            self._task = None
        if self._urgent and not self._closed:
            self._urgent = False
            self.ask_soon(urgent=True)

    def _report(self) -> Report:
        report = Report(
            self.admitted, self.throttled, self.counted_less, self.tokens_refused, self.pause_s, self.limits
        )
        self.admitted = self.throttled = self.counted_less = self.tokens_refused = 0
        self.pause_s, self.limits = 0.0, Announced()
        return report

    def _want(self) -> Want:
        gate, now = self._gate, self._loop.time()
        waiting, waiting_tokens, next_tokens = gate.waiting, gate.waiting_tokens, gate.next_tokens
        sent = gate.admissions
        per_s = (sent - self._asked_sent) / max(now - self._asked_at, DRIP_S)
        self._asked_at, self._asked_sent = now, sent
        self._number += 1
        may_use = not self._promises and not gate.paused
        short_of_requests = self._requests <= self._half_requests or self._requests < 1
        short_of_tokens = self._tokens <= self._half_tokens or self._tokens <= 0 or self._tokens < next_tokens
        wants_requests = may_use and (short_of_requests or self._requests == INFINITE)
        wants_tokens = may_use and (short_of_tokens or self._tokens == INFINITE)
        return Want(
            concurrency=gate.in_flight + waiting,
            requests=max(1, waiting) if wants_requests else 0,
            tokens=max(1, waiting_tokens) if wants_tokens else 0,
            max_concurrency=gate.max_concurrency,
            hungry=waiting > 0 and (gate.paused or self._lacks(next_tokens)),
            per_s=per_s,
            tokens_per_call=waiting_tokens // waiting if waiting else 0,
            next_tokens=0 if self._tokens == INFINITE else max(0, math.ceil(next_tokens - self._tokens)),
            in_flight=gate.in_flight,
            share=self.share,
            series=self._series,
            number=self._number,
            heard=self._heard,
        )

    def _unanswered(self, report: Report) -> None:
        self.admitted += report.admitted
        self.throttled += report.throttled
        self.counted_less += report.counted_less
        self.tokens_refused += report.tokens_refused
        passed_s = self._loop.time() - self._asked_at
        self.pause_s = max(self.pause_s, report.pause_s - passed_s, 0.0)
        self._renew_in(RETRY_S)

    def _expired(self) -> None:
        """The coordinator counts on us no more: what we held may be with others by now."""
        self._expiry = None
        self.share, self._requests = 0, 0.0
        self._gate.shared()

    def told(self, notice: Notice) -> None:
        """What another holder's refusal, or its want, means here, ahead of the next grant."""
        penalised = notice.penalties > self._penalties
        self._penalties = max(self._penalties, notice.penalties)
        self._gate.told(notice.pause_s, penalised=penalised)
        if penalised and self._requests == INFINITE:
            # Behind the pause a burst would be refused too. All ask for their part of what is left, not at once.
            self._requests = 0.0
            self._renew_in(self._gate.random() * min(notice.pause_s, RETRY_S))
        if notice.share is None:
            return
        self.share = min(self.share, notice.share)
        self._gate.shared()
        self.ask_soon(urgent=True)

    def _take_over(self, want: Want, grant: Grant, *, reported_throttle: bool) -> None:
        self.share, self._heard = grant.concurrency, want.number
        # From when we asked: the coordinator's time began later, and so ends later.
        self._expires_at = self._asked_at + grant.expires_s
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = self._loop.call_at(self._expires_at, self._expired)
        # The penalty that our own report caused was paid when it happened.
        penalised = grant.penalties - self._penalties > int(reported_throttle)
        self._penalties = grant.penalties
        if grant.epoch != self._epoch:
            self._epoch = grant.epoch
            self._break_promises()
        if grant.requests is None:
            self._requests, self._half_requests = INFINITE, -INFINITE
        elif self._requests == INFINITE:
            self._requests = 0.0
        if grant.tokens is None:
            self._tokens, self._half_tokens = INFINITE, -INFINITE
        elif self._tokens == INFINITE:
            self._tokens = 0.0
        self._keep_pace(grant)
        self._promise(grant.requests or 0, grant.tokens or 0, grant.start_in_s)
        nothing = grant.requests == 0 and not grant.tokens and want.requests > 0
        self._told_all = want.hungry and (grant.paced or nothing)
        self._told_idle = want.concurrency == 0
        self._renew_in(grant.renew_s)
        self._gate.granted(grant, penalised=penalised)
        if self._gate.waiting:
            self.wanted()  # it came while the coordinator heard of none

    # -- a pace

    def _keep_pace(self, grant: Grant) -> None:
        if not grant.paced:
            self._paced = False
            self._requests_per_s = self._tokens_per_s = 0.0
            return
        if not self._paced:
            self._break_promises()
            self._paced, self._ripe_at = True, self._loop.time()
            self._half_requests = self._half_tokens = -INFINITE
            self._at_a_moment_of_our_own()
        self._ripen()
        self._requests_per_s, self._tokens_per_s = grant.requests_per_s, grant.tokens_per_s
        if self._drip is not None:
            self._drip.cancel()
            self._drip = None

    def _at_a_moment_of_our_own(self) -> None:
        """Holders that begin together must not send together: at a random part of the time between two calls."""
        if self._requests != INFINITE:
            self._requests = self._gate.random()
        if self._tokens != INFINITE:
            a_call = self._gate.waiting_tokens / max(1, self._gate.waiting)
            self._tokens = min(self._tokens, -self._gate.random() * a_call)

    def _ripen(self) -> None:
        now = min(self._loop.time(), self._expires_at)
        passed_s = max(0.0, now - self._ripe_at)
        self._ripe_at = max(now, self._ripe_at)
        if self._requests != INFINITE:
            most = 1.0 + BLOCK_S * self._requests_per_s
            self._requests = min(max(most, self._requests), self._requests + passed_s * self._requests_per_s)
        if self._tokens != INFINITE:
            most = 1.0 + BLOCK_S * self._tokens_per_s
            self._tokens = min(max(most, self._tokens), self._tokens + passed_s * self._tokens_per_s)

    def _ripened(self) -> bool:
        """Whether a permit is there by now; if not, those who wait are woken when it is."""
        if not self._paced:
            return False
        self._ripen()
        if self._requests >= 1 and self._tokens > 0:
            return True
        if self._drip is None and self._requests_per_s + self._tokens_per_s > 0:
            wait_s = self._ripe_at - self._loop.time()
            if self._requests < 1:
                wait_s += (1.0 - self._requests) / self._requests_per_s
            if self._tokens <= 0:
                wait_s = max(wait_s, (1.0 - self._tokens) / self._tokens_per_s)
            self._drip = self._loop.call_later(max(DRIP_S, wait_s + 1e-6), self._dripped)
        return False

    def _dripped(self) -> None:
        self._drip = None
        if self._loop.time() < self._expires_at:
            self._gate.restocked()

    # -- permits

    def paused(self, until_s: float) -> None:
        """Nothing is sent until then: permits of the time before are not for the moment after it."""
        if self._paced:
            self._at_a_moment_of_our_own()
            self._ripe_at = until_s
        elif self._expires_at != INFINITE:
            self._requests = self._requests if self._requests == INFINITE else min(self._requests, 0.0)
            self._tokens = self._tokens if self._tokens == INFINITE else min(self._tokens, 0.0)

    def _promise(self, requests: int, tokens: int, in_s: float) -> None:
        if not requests and not tokens:
            return
        if in_s <= 0:
            self._arrived(requests, tokens)
            return

        def arrive() -> None:
            self._promises.discard(handle)
            self._arrived(requests, tokens)
            self._gate.restocked()

        handle = self._loop.call_later(in_s, arrive)
        self._promises.add(handle)

    def _arrived(self, requests: int, tokens: int) -> None:
        """Take a block in; in a pause it is let go, and asked for again behind the pause."""
        if self._gate.paused:
            return
        if requests:
            self._requests += requests
            self._half_requests = -INFINITE if self._paced else self._requests // 2
        if tokens:
            self._tokens += tokens
            self._half_tokens = self._tokens // 2

    def _break_promises(self) -> None:
        for handle in self._promises:
            handle.cancel()
        self._promises.clear()

    def _renew_in(self, seconds: float) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
        self._renewal = self._loop.call_later(seconds, self._renew)

    def _renew(self) -> None:
        """While in use; else a pace and a share are given back, once."""
        self._renewal = None
        in_use = self._gate.in_flight or self._gate.waiting
        if not in_use and self._told_idle and not self._requests_per_s + self._tokens_per_s:
            return
        self._told_all = False
        self.ask_soon(urgent=True)

    async def close(self) -> None:
        """Cancel the timers and the question under way."""
        self._closed = True
        self._break_promises()
        for timer in (self._renewal, self._drip, self._expiry):
            if timer is not None:
                timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
