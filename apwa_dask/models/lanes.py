"""All holders of one gate: fair parts of the calls in flight and of the pace. Pure: time is given.

A known limit is shared in one of two ways. Where it is wide enough for calls of all holders that fall together
by chance, each holder is given a *pace* of its own, which lasts as long as its lease. Where it is narrower, the
coordinator books *permits* one by one at their moments, and each holder waits for its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from apwa_dask.models.accounting import Accounting
from apwa_dask.models.headers import Window
from apwa_dask.models.leases import Report, Want
from apwa_dask.models.pace import Bucket, LearnedRate
from apwa_dask.models.shares import Shares

__all__ = ["Holder", "Lane", "Permits"]

PROBE_STEP_S = 0.1
"""The calls that go before anyone was answered double in number at such steps: an unknown limit refuses few."""

HEADROOM = 1.25
"""A holder whose calls do not wait keeps so much more than it uses."""

IN_STEP = 0.75
"""Share of a second's limit that the calls of all holders may be, if all of them fall into one moment."""

UNEVEN = 2.0
"""A call may take so many times the tokens of a usual one."""

OTHER_LIMIT = 1.25
"""A limit that changed by this factor voids what was promised under the old one."""

LOOK_S = 1.0
SHORT_LEASE_S = 0.1

TELL_EVERY_S, TELL_LONGER_S = 0.5, 1.0
"""A storm of refusals is told to all so often, or when their pause becomes so much longer: each costs a message a
worker."""


@dataclass(frozen=True, slots=True)
class Permits:
    """The part of a grant that is about limits; see `Grant`."""

    requests: int | None = None
    tokens: int | None = None
    start_in_s: float = 0.0
    paced: bool = False
    requests_per_s: float = 0.0
    tokens_per_s: float = 0.0
    ask_in_s: float | None = None


@dataclass(slots=True)
class Holder:
    """A process at a gate."""

    order: int
    expires_s: float = 0.0
    part: float = 0.0
    """Of the pace; all parts together are at most 1."""
    use: float = 0.0
    """Of the pace, by a holder whose calls do not wait."""
    hungry: bool = False
    leases: int = 0
    series: int = 0
    """Of its questions."""
    answered: int = 0
    """Number of the last one that was answered."""
    booked: Report = field(default_factory=Report)
    """What that one reported, and what it may repeat if the answer was lost."""
    given: Permits = field(default_factory=Permits)
    """What the answer granted, at this moment and under the limits of this epoch."""
    given_s: float = 0.0
    given_epoch: int = 0


@dataclass(slots=True)
class Lane:
    """All holders of one gate. Sums are kept up to date: a lease costs the same however many hold one."""

    holders: dict[str, Holder] = field(default_factory=dict)
    shares: Shares = field(default_factory=Shares)
    requests: Bucket | None = None
    tokens: Bucket | None = None
    learned: LearnedRate | None = None
    accounting: Accounting = field(default_factory=Accounting)
    pause_until_s: float = 0.0
    answered: bool = False
    penalties: int = 0
    penalised_s: float = float("-inf")
    epoch: int = 0
    _epoch_rates: tuple[float, float] | None = None
    _tokens_per_call: float = 0.0
    _is_wide: bool = False
    _parts: float = 0.0
    _hungry: int = 0
    _used: float = 0.0
    _births: int = 0
    _first_s: float = 0.0
    _told_s: float = float("-inf")
    _looked_s: float = float("-inf")

    # -- holders

    def holder(self, name: str, now: float) -> Holder:
        """The holder of this name; those that have been silent for too long are forgotten on the way."""
        if now - self._looked_s >= LOOK_S:
            self._look(now)
        known = self.holders.get(name)
        if known is None:
            if not self._births:
                self._first_s = now
            known = self.holders[name] = Holder(self._births)
            self._births += 1
            self.shares.join(name, now)
        return known

    def forget(self, name: str) -> None:
        """Its share and its part return."""
        gone = self.holders.pop(name, None)
        if gone is None:
            return
        self.shares.leave(name)
        self._settle(gone, 0.0, hungry=False, use=0.0)

    def _look(self, now: float) -> None:
        self._looked_s = now
        for name in [name for name, holder in self.holders.items() if holder.expires_s < now]:
            self.forget(name)
        # Sums of floats drift.
        self._parts = math.fsum(holder.part for holder in self.holders.values())
        self._used = math.fsum(holder.use for holder in self.holders.values())

    # -- questions

    def is_late(self, mine: Holder, want: Want) -> bool:
        """It was asked before the last one that was answered: nobody waits for it any more."""
        return want.number > 0 and want.series == mine.series and want.number <= mine.answered

    def is_repeated(self, mine: Holder, want: Want) -> bool:
        """It is asked in place of one that was answered and not heard."""
        return want.number > 0 and want.series == mine.series and want.heard < mine.answered

    def again(self, mine: Holder, want: Want, now: float) -> Permits | None:
        """What the answer that was not heard granted, at the same moment; None if that has passed.

        Then only what the endpoint may have kept in its bucket meanwhile goes back into ours.
        """
        lost, mine.given = mine.given, Permits()
        if mine.given_epoch != self.epoch or not (lost.requests or lost.tokens):
            return None
        left_s = mine.given_s + lost.start_in_s - now
        if left_s > 0 and (want.requests or want.tokens) and not self._is_wide:
            return replace(lost, start_in_s=left_s)
        for bucket, units in ((self.requests, lost.requests), (self.tokens, lost.tokens)):
            if bucket is not None and units:
                bucket.level += min(units, bucket.capacity - 1.0)
        return None

    def keep(self, mine: Holder, want: Want, report: Report, permits: Permits, now: float) -> None:
        """Remember the answer to a question until the next one tells whether it was heard."""
        mine.series, mine.answered, mine.booked = want.series, want.number, report
        mine.given, mine.given_s, mine.given_epoch = permits, now, self.epoch

    # -- limits

    def learn(self, report: Report, now: float) -> bool:
        """Take in what happened at a holder; True when the others should hear of it at once."""
        self.answered = self.answered or report.admitted > 0
        longer_s = now + report.pause_s - max(now, self.pause_until_s) if report.pause_s else 0.0
        news = longer_s > TELL_LONGER_S
        if report.throttled and now - self.penalised_s >= 0.05:
            self.penalties += 1
            self.penalised_s = now
            news = news or now - self._told_s >= TELL_EVERY_S
        if longer_s > 0 and self.tokens is not None and not self._is_wide:
            self.tokens.let_go(longer_s, now)
        self.pause_until_s = max(self.pause_until_s, now + report.pause_s if report.pause_s else 0.0)
        if news:
            self._told_s = now
        limits = report.limits
        for bucket in (self.requests, self.tokens):
            if self._is_wide and bucket is not None:
                bucket.at_s = now  # what refilled meanwhile went out as paces
        if limits.requests is not None:
            self.requests = _heard(self.requests, limits.requests, now)
            self.learned = None
        if limits.tokens is not None:
            self.tokens = _heard(self.tokens, limits.tokens, now)
        if not limits and (self.requests is None or self.learned is not None):
            self._learn_unannounced(report, now)
        self._see_another_limit()
        if self.accounting.learn(report.counted_less, report.tokens_refused):
            self._tokens_per_call = 0.0
            self._void_promises()
        return news

    def _learn_unannounced(self, report: Report, now: float) -> None:
        if self.learned is None:
            self.learned = LearnedRate(now)
        per_s = self.learned.observe(report.admitted, report.throttled, now)
        if per_s is None:
            return
        if self.requests is None:
            self.requests = Bucket(per_s, max(1.0, per_s / 4), 0.0, now)
        self.requests.per_s = per_s
        self.requests.capacity = max(1.0, per_s / 4)

    def _see_another_limit(self) -> None:
        buckets = (self.requests, self.tokens)
        rates = (buckets[0].per_s if buckets[0] else 0.0, buckets[1].per_s if buckets[1] else 0.0)
        known = self._epoch_rates
        if known is not None and all(map(_alike, rates, known)):
            return
        self._epoch_rates = rates
        if known is None or not any(known):
            return
        self._void_promises()

    def _void_promises(self) -> None:
        self.epoch += 1
        for bucket in (self.requests, self.tokens):
            if bucket is not None:
                bucket.level = max(bucket.level, 0.0)

    def permits(self, mine: Holder, want: Want, now: float) -> Permits:
        """What a holder may send: anything, a pace, or permits."""
        if self.requests is None and self.tokens is None:
            return self._probe(mine, now)
        if want.tokens_per_call:
            seen = self._tokens_per_call or want.tokens_per_call
            self._tokens_per_call = seen + (want.tokens_per_call - seen) / 8
        calls_per_s = self._calls_per_s()
        if not self._wide(calls_per_s):
            self._settle(mine, 0.0, hungry=False, use=0.0)
            return self._booked(want, now)
        spare = 0
        if self.requests is not None and self.tokens is None:
            spare = self.requests.spare(max(len(self.holders), self.requests.per_s / 2), want.requests, now)
        part = self._part(mine, want, calls_per_s)
        return Permits(
            requests=None if self.requests is None else spare,
            tokens=None if self.tokens is None else 0,
            paced=True,
            requests_per_s=0.0 if self.requests is None else part * self.requests.per_s,
            tokens_per_s=0.0 if self.tokens is None else part * self.tokens.per_s,
            ask_in_s=self._soon(mine),
        )

    def _soon(self, mine: Holder) -> float | None:
        """Parts change much among newcomers, so their first leases are short."""
        mine.leases += 1
        after_s = max(SHORT_LEASE_S * 2.0 ** min(mine.leases - 1, 9), len(self.holders) / 400)
        return after_s if after_s < 1.0 else None

    def _probe(self, mine: Holder, now: float) -> Permits:
        """Nobody was answered and no limit is known: the first goes, then one more, two more, four more."""
        wait_s = self._first_s + PROBE_STEP_S * math.log2(mine.order + 1) - now
        if self.answered or wait_s <= 0:
            return Permits()
        return Permits(requests=0, ask_in_s=wait_s)

    def _calls_per_s(self) -> float:
        rates = [self.requests.per_s] if self.requests is not None else []
        if self.tokens is not None:
            rates.append(self.tokens.per_s / max(1, self._tokens_per_call))
        return min(rates)

    def _wide(self, calls_per_s: float) -> bool:
        """May each holder keep its own time?

        Endpoints enforce a limit by the second. Where a second admits a call of every holder, nothing is
        refused though all fall together; else holders at independent moments exceed a common pace by about the
        root of their number (a Brownian bridge), which must be well within a second's calls. Where tokens are
        limited some calls are several times as large as others, and so is what is exceeded.
        """
        spread = 1.0 if self.tokens is None else UNEVEN
        most = max(1.0, IN_STEP * calls_per_s / spread, (calls_per_s / spread) ** 2 / 2)
        # One holder more or less must not turn it to and fro.
        self._is_wide = len(self.holders) <= most * (OTHER_LIMIT if self._is_wide else 1.0)
        return self._is_wide

    def _part(self, mine: Holder, want: Want, calls_per_s: float) -> float:
        """Max-min fair as `Shares`, of the pace: who does not need its part leaves it to those who wait."""
        fair = 1.0 / len(self.holders)
        use = min(1.0, HEADROOM * want.per_s / calls_per_s) if want.concurrency else 0.0
        self._settle(mine, mine.part, hungry=want.hungry, use=use)
        if want.hungry:
            part = max(fair, (1.0 - self._used) / self._hungry)
        else:
            part = use if self._hungry else max(fair, use)
            part = min(part, max(fair, 1.0 - fair * self._hungry))
        if not want.concurrency:
            part = 0.0
        part = max(0.0, min(part, 1.0 - (self._parts - mine.part)))
        self._settle(mine, part, hungry=want.hungry, use=use)
        return part

    def _settle(self, mine: Holder, part: float, *, hungry: bool, use: float) -> None:
        use = 0.0 if hungry else use
        self._parts += part - mine.part
        self._used += use - mine.use
        self._hungry += hungry - mine.hungry
        mine.part, mine.use, mine.hungry = part, use, hungry

    def _booked(self, want: Want, now: float) -> Permits:
        count = len(self.holders)
        requests = tokens = None
        start_in_s = 0.0
        if self.requests is not None:
            requests = self.requests.block(max(want.requests, 1), count, now) if want.requests else 0
            start_in_s = self.requests.take(requests, now)
        if self.tokens is not None:
            least = max(1, want.next_tokens)
            tokens = self.tokens.block(max(want.tokens, 1), count, now, least) if want.tokens else 0
            start_in_s = max(start_in_s, self.tokens.take(tokens, now))
        return Permits(requests, tokens, start_in_s)


def _alike(rate: float, known: float) -> bool:
    return known / OTHER_LIMIT <= rate <= known * OTHER_LIMIT


def _heard(bucket: Bucket | None, window: Window, now: float) -> Bucket:
    if bucket is None:
        return Bucket.announced(window, now)
    bucket.heard(window, now)
    return bucket
