"""What a process asks of the coordinator, and what it is granted: plain values that travel over any wire.

All times are spans, never moments: the clocks of two machines have nothing in common.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from apwa_dask.models.headers import Announced

__all__ = ["Funds", "Grant", "LeaseFn", "Money", "MoneyFn", "MoneyReport", "Notice", "Report", "Want"]


@dataclass(frozen=True, slots=True)
class Want:
    """What a gate could use now.

    Parameters
    ----------
    concurrency : int
        Calls in flight and waiting.
    in_flight, share : int
        Calls in flight now, and how many this process keeps to until it is answered.
    requests, tokens : int
        Permits for the next block; used only where the endpoint has such limits.
    max_concurrency : int
        The user's ceiling for this endpoint over all processes.
    hungry : bool
        Calls wait for permits, and for nothing else.
    per_s : float
        Calls sent a second since the last question.
    tokens_per_call : int
        What a waiting call expects to use; 0 where none waits.
    next_tokens : int
        What the call that is next lacks.
    series, number : int
        Which question it is, of which gate's; 0 where nobody counts them. An answer may come too late: one that was
        given and not heard is settled by the next question, and one that is asked after its successor grants nothing.
    heard : int
        The last question of the series whose answer arrived.
    """

    concurrency: int
    requests: int = 1
    tokens: int = 0
    max_concurrency: int = 64
    hungry: bool = False
    per_s: float = 0.0
    tokens_per_call: int = 0
    next_tokens: int = 0
    in_flight: int = 0
    share: int = 0
    series: int = 0
    number: int = 0
    heard: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What happened at a gate since its last lease.

    Parameters
    ----------
    admitted, throttled : int
        Calls answered, and refused for a rate.
    counted_less, tokens_refused : int
        Answers that showed that the endpoint does not count the most that may be answered (see `Accounting`), and
        refusals for too many tokens.
    pause_s : float
        Asked for by the endpoint.
    """

    admitted: int = 0
    throttled: int = 0
    counted_less: int = 0
    tokens_refused: int = 0
    pause_s: float = 0.0
    limits: Announced = field(default_factory=Announced)

    def beyond(self, booked: Report) -> Report:
        """What is not booked yet, of a report that repeats one that was booked."""
        return replace(
            self,
            admitted=self.admitted - booked.admitted,
            throttled=self.throttled - booked.throttled,
            counted_less=self.counted_less - booked.counted_less,
            tokens_refused=self.tokens_refused - booked.tokens_refused,
        )


@dataclass(frozen=True, slots=True)
class Grant:
    """What a gate may do until it asks again.

    Parameters
    ----------
    concurrency : int
        Its share of the calls in flight.
    requests, tokens : int, optional
        Permits, to be used `start_in_s` from now or later; None where there is no limit.
    paced : bool
        Instead of permits a pace: `requests_per_s` and `tokens_per_s` ripen in the holder until the grant
        expires (0 where there is no such limit).
    epoch : int
        Rises when the limit became another: what was promised for later is void.
    pause_s : float
        Nothing may be sent for so long.
    penalties : int
        Rises when any holder was throttled: shrink once.
    renew_s, expires_s : float
        When to ask again; when this grant is void if the coordinator does not answer.
    stop : str
        Why to stop; empty to go on.
    answered : bool
        The endpoint has answered some holder: nobody need probe it, and silence now is an outage.
    holders : int
        Processes that share this gate.
    counts_most : bool
        Reserve the most tokens that may be answered, not those that are expected: see `Accounting`.
    """

    concurrency: int
    requests: int | None = None
    tokens: int | None = None
    start_in_s: float = 0.0
    paced: bool = False
    requests_per_s: float = 0.0
    tokens_per_s: float = 0.0
    epoch: int = 0
    pause_s: float = 0.0
    penalties: int = 0
    renew_s: float = 5.0
    expires_s: float = 15.0
    stop: str = ""
    answered: bool = False
    holders: int = 1
    counts_most: bool = True


@dataclass(frozen=True, slots=True)
class Notice:
    """What holders of a gate must hear at once: one of them was refused, or calls in flight change hands.

    Parameters
    ----------
    pause_s : float
        Nothing may be sent for so long.
    penalties : int
        As in `Grant`.
    share : int, optional
        Ask at once, and have no more calls in flight meanwhile.
    """

    gate_key: str
    pause_s: float
    penalties: int
    share: int | None = None


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in the three currencies of a budget."""

    usd: float = 0.0
    tokens: int = 0
    calls: int = 0

    def __add__(self, other: Money) -> Money:
        return Money(self.usd + other.usd, self.tokens + other.tokens, self.calls + other.calls)

    def __sub__(self, other: Money) -> Money:
        return Money(self.usd - other.usd, self.tokens - other.tokens, self.calls - other.calls)

    def __bool__(self) -> bool:
        return bool(self.usd or self.tokens or self.calls)

    def times(self, count: float) -> Money:
        """So many of it; what is counted is rounded down."""
        return Money(self.usd * count, int(self.tokens * count), int(self.calls * count))

    def at_least(self, other: Money) -> Money:
        """The larger amount of each currency."""
        return Money(max(self.usd, other.usd), max(self.tokens, other.tokens), max(self.calls, other.calls))

    @property
    def is_something(self) -> bool:
        """More than what rounding leaves."""
        return self.usd > 1e-9 or self.tokens > 0 or self.calls > 0


@dataclass(frozen=True, slots=True)
class MoneyReport:
    """All that a wallet ever did, so that no report is booked twice and none is lost.

    Parameters
    ----------
    spent, returned : Money
        Of its grants; returned unused.
    granted : Money
        The total that it has heard of.
    series, number : int
        Which question it is, of which wallet's: one that comes after its successor grants nothing. 0 where nobody
        counts them.
    """

    spent: Money = field(default_factory=Money)
    returned: Money = field(default_factory=Money)
    granted: Money = field(default_factory=Money)
    series: int = 0
    number: int = 0

    @property
    def held(self) -> Money:
        """What it may still spend."""
        return self.granted - self.spent - self.returned


@dataclass(frozen=True, slots=True)
class Funds:
    """An answer about money.

    Parameters
    ----------
    granted : Money
        All that the wallet was ever granted, this time included.
    enough : bool
        The wanted minimum is granted.
    may_return : bool
        When not: others hold money that may still come back.
    left : Money
        Not yet leased to anyone.
    """

    granted: Money
    enough: bool
    may_return: bool = False
    left: Money = field(default_factory=Money)


LeaseFn = Callable[[str, Want, Report], Awaitable[Grant]]
"""``await lease(gate_key, want, report)``: one process's way to the coordinator."""

MoneyFn = Callable[[str, Money, Money, MoneyReport], Awaitable[Funds]]
"""``await fund(account, least, wanted, report)``."""
