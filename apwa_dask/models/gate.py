"""The gate of one endpoint, key and model in one process: who may send now.

Concurrency adapts by loss (AIMD after Netflix's concurrency-limits: +1 per full window, only while the window
is in use; x0.7 on overload, once per round trip), starts with slow start, and stays within the share that the
coordinator leases. A pause holds everyone back; waits hold no slot. All of it runs on one event loop: no
locks, and the fast path is a few integer comparisons.
"""

from __future__ import annotations

import asyncio
import copy
import random
import time
from collections import deque
from collections.abc import Callable

from apwa_dask.errors import ApwaError, RunError
from apwa_dask.models.headers import MAX_WAIT_S, Announced
from apwa_dask.models.leases import Grant, LeaseFn, Notice
from apwa_dask.models.retry_budget import RetryBudget
from apwa_dask.models.stock import Stock
from apwa_dask.models.tokens import OutputEstimate
from apwa_dask.models.types import Usage

__all__ = ["Gate"]

INFINITE = float("inf")
SHRINK = 0.7
SLOW_START_STEP = 2.0
"""Slots added by each good answer of a full window in slow start: the window triples every round trip."""

OPENING_STEP_S, OPENING_FIRST, OPENING_STEPS = 0.0025, 8.0, 64
"""Behind a probe that was answered the window opens by the clock: a few calls, then an eighth more at each step (twice
as many in fifteen milliseconds), but not more than a 64th of the ceiling at a time.

Answers take seconds and refusals milliseconds: the first refusal ends it long before a round trip is over. Calls that
begin one by one also end one by one: of those that begin together the last waits each time until all others are dealt
with.
"""

DOUBTS = 5
"""Refusals for tokens in a row, with nothing that explains them, until too few are thought to be reserved."""

BLIND_PAUSE_S, BLIND_PAUSE_CAP_S = 0.5, 60.0
OUTAGE_STREAK = 5
"""Calls that fail in a row before one at a time asks whether the endpoint is back."""

OUTAGE_CAP_S = 20.0
"""Longest wait between two such questions: work goes on soon after the endpoint is back."""


class Gate:
    """Admits calls, first come first served.

    Parameters
    ----------
    key : str
        Identity: endpoint, hash of the key, model. Shared with the coordinator.
    max_concurrency : int
        The user's ceiling over all processes.
    start : int, optional
        First window; a quarter of the ceiling, at least 8, when not given. The embedded model starts at its
        slots.
    lease : callable, optional
        Way to the coordinator; without it the gate stands alone.
    probe : bool
        Half-open at first: one call flies until one has been answered, so that a wrong key costs one call.

    Notes
    -----
    Made and used on one running event loop; its clock is the loop's.
    """

    def __init__(
        self,
        key: str,
        *,
        max_concurrency: int = 64,
        start: int | None = None,
        lease: LeaseFn | None = None,
        rng: random.Random | None = None,
        probe: bool = True,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.key = key
        self.max_concurrency = max_concurrency
        self.in_flight = 0
        self.answers = 0
        self.pauses = 0
        self.retries = RetryBudget()
        self._loop = asyncio.get_running_loop()
        self.time_s = self._loop.time
        self._rng = rng or random.Random()
        self._wall_clock = wall_clock
        self.counts_most = True
        self._doubts = 0
        self._waiters: deque[tuple[asyncio.Future[int], int, OutputEstimate | None]] = deque()
        self.reserved: dict[int, int] = {}
        """Tokens set aside for calls, by their numbers; empty where the endpoint limits none."""
        self._limit = float(
            min(max_concurrency, start if start is not None else max(8, max_concurrency // 4))
        )
        self._threshold = float(max_concurrency)
        self._probing = probe
        self._streak = 0
        self._silences = 0
        self._blind_pauses = 0
        self._sequence = 0
        self._shrunk_at = 0
        self._pause_until = 0.0
        self._paused_for = ""
        self._wake_timer: asyncio.TimerHandle | None = None
        self._opens = probe and start is None
        self._start = self._limit
        self._opening: asyncio.TimerHandle | None = None
        self._cap = 0
        self._sheds = False
        self._lease = Stock(self, lease) if lease is not None else None
        self._set_cap()

    # -- admission

    def try_acquire(self, tokens: int = 0, output: OutputEstimate | None = None) -> int:
        """A number to hand back after the call, if it may be sent at once; else 0.

        Parameters
        ----------
        tokens : int
            Expected input; matters only where the endpoint limits tokens, as all about tokens here.
        output : OutputEstimate, optional
            What to reserve for the answer is asked of it when the call may be sent.
        """
        if self._waiters or self.in_flight >= self._cap:
            return 0
        reserved = tokens if output is None else self._need(tokens, output)
        if self._lease is not None and not self._lease.take(reserved):
            return 0
        self.in_flight += 1
        return self._numbered(reserved)

    async def acquire(self, tokens: int = 0, output: OutputEstimate | None = None) -> int:
        """Wait for a slot; the number to hand back after the call. A cancelled waiter leaves no trace.

        Raises
        ------
        ApwaError
            What `fail` was given, if the endpoint refused for good meanwhile.
        """
        number = self.try_acquire(tokens, output)
        if number:
            return number
        future: asyncio.Future[int] = self._loop.create_future()
        self._waiters.append((future, tokens, output))
        self._wake()
        if self._lease is not None:
            self._lease.wanted()
        try:
            return self._numbered(await future)
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.settle(self._numbered(future.result()), output, Usage())
                self.release()
            raise

    def settle(self, number: int, output: OutputEstimate | None, usage: Usage | None) -> None:
        """Give back what a call was not counted for, or take what it was counted for beyond. Call before `release`.

        Parameters
        ----------
        usage : Usage, optional
            What it came to; None when nobody knows what it was counted for, and no tokens when it was not sent.
        """
        reserved = self.reserved.pop(number, None)
        if reserved is None or usage is None or self._lease is None:
            return
        counted = usage.input + usage.output
        if counted and self.counts_most and output is not None:
            counted = max(counted, usage.input + output.reserved(most=True))
        self._lease.settle(reserved - counted)

    def _need(self, tokens: int, output: OutputEstimate | None) -> int:
        return tokens if output is None else tokens + output.reserved(most=self.counts_most)

    def _numbered(self, reserved: int) -> int:
        self._sequence += 1
        if reserved and self._lease is not None and self._lease.limits_tokens:
            self.reserved[self._sequence] = reserved
        return self._sequence

    def release(self) -> None:
        """Give the slot back, and serve whoever waits."""
        self.in_flight -= 1
        if self._sheds and self._lease is not None and self.in_flight <= self._lease.share:
            self._sheds = False
            self._lease.ask_soon(urgent=True)  # others wait for what came back
        if self._waiters:
            self._wake()

    def _wake(self) -> None:
        waiters, lease = self._waiters, self._lease
        while waiters:
            future, tokens, output = waiters[0]
            if not future.done():
                if self.in_flight >= self._cap:
                    return
                reserved = self._need(tokens, output)
                if lease is not None and not lease.take(reserved):
                    return
                self.in_flight += 1
                future.set_result(reserved)
            waiters.popleft()

    @property
    def limits_tokens(self) -> bool:
        """The endpoint is known to limit tokens: a call that may be sent needs some."""
        return self._lease is not None and self._lease.limits_tokens

    @property
    def waiting(self) -> int:
        """Calls that wait for a slot."""
        return len(self._waiters)

    @property
    def waiting_tokens(self) -> int:
        """What is to be reserved for them."""
        return sum(self._need(tokens, output) for _, tokens, output in self._waiters)

    @property
    def next_tokens(self) -> int:
        """What is to be reserved for the one that is next."""
        return next(
            (self._need(tokens, output) for future, tokens, output in self._waiters if not future.done()), 0
        )

    @property
    def admissions(self) -> int:
        """Calls sent so far."""
        return self._sequence

    @property
    def paused(self) -> bool:
        """Nothing may be sent now."""
        return self._pause_until > self._loop.time()

    def random(self) -> float:
        """From this gate's generator, in [0, 1)."""
        return self._rng.random()

    # -- feedback

    def succeeded(self) -> None:
        """A call was answered, well or badly: the endpoint is there. Call before `release`."""
        self.answers += 1
        in_use = self.in_flight
        if self._streak or self._probing:
            self._back_to_work()
        self._blind_pauses = 0
        if self._lease is not None:
            self._lease.admitted += 1
        limit = self._limit
        if limit >= self.max_concurrency or in_use < int(limit):
            return
        self._limit = min(
            limit + (SLOW_START_STEP if limit < self._threshold else 1.0 / limit),
            float(self.max_concurrency),
        )
        if int(self._limit) > int(limit):
            self._set_cap()

    def throttled(
        self, number: int, wait_s: float | None, *, lacks_tokens: bool = False, left: float = INFINITE
    ) -> None:
        """A call was refused for its rate: shrink, and let everyone wait.

        Parameters
        ----------
        number : int
            From `acquire`. Only the first refusal of a round trip shrinks.
        wait_s : float, optional
            As the endpoint asked. Without it the pause grows from round to round.
        lacks_tokens : bool
            It was refused for too many tokens.
        left : float
            Tokens that the endpoint had then. Where that is more than was reserved, too few were.
        """
        if lacks_tokens and left < self.reserved.get(number, 0):
            self._doubts += 1
            lacks_tokens = self._doubts >= DOUBTS
        self.counts_most = self.counts_most or lacks_tokens
        if self._shrink(number) and wait_s is None:
            self._blind_pauses += 1
        if wait_s is None:
            ceiling = min(BLIND_PAUSE_CAP_S, BLIND_PAUSE_S * 2.0 ** min(self._blind_pauses - 1, 20))
            wait_s = self._rng.uniform(ceiling / 2, ceiling)
        self.pause(wait_s, "rate limit")
        if self._lease is not None:
            self._lease.throttled += 1
            self._lease.tokens_refused += lacks_tokens
            self._lease.ask_soon(urgent=True)

    def overloaded(self, number: int) -> None:
        """A call timed out or the endpoint said that it is overloaded: shrink."""
        self._shrink(number)

    def failed(self) -> None:
        """Another call found no working endpoint (report each call's first failure, and each probe's)."""
        self._streak += 1
        if self._streak < OUTAGE_STREAK or not self.answers:
            return
        self._probing = True
        if self._loop.time() < self._pause_until:
            return  # it was in flight when the outage began, and says nothing new
        self.pause(min(OUTAGE_CAP_S, 2.0**self._silences), "provider does not answer")
        self._silences = min(self._silences + 1, 30)

    @property
    def outage(self) -> bool:
        """The endpoint worked and does not now: failures are its own, not the rows'."""
        return self._probing and self.answers > 0 and self._streak >= OUTAGE_STREAK

    def heard(self, limits: Announced, *, counted_less: bool = False) -> None:
        """Pass announced limits on to whoever keeps the pace, and that an answer was not counted at its most."""
        if counted_less:
            self._doubts = 0
        if self._lease is not None:
            self._lease.counted_less += counted_less
            self._lease.heard(limits)

    def fail(self, error: ApwaError) -> None:
        """Send the error to all who wait: the endpoint refuses for good. Later callers probe again."""
        self._probing = True
        self._set_cap()
        waiters, self._waiters = self._waiters, deque()
        for future, *_ in waiters:
            if not future.done():
                future.set_exception(copy.copy(error))

    def pause(self, seconds: float, reason: str, *, tell: bool = True) -> None:
        """Send nothing for so long, then start again slowly.

        A little later than asked, lest all processes wake at once. With `tell`, the others learn of it.
        """
        span = min(max(seconds, 0.0), MAX_WAIT_S)
        until = self._loop.time() + span + self._rng.uniform(0.0, min(1.0, 0.1 * span))
        if until <= self._pause_until:
            return
        self._pause_until, self._paused_for = until, reason
        self.pauses += 1
        if self._lease is not None:
            self._lease.paused(until)
            if tell:
                self._lease.pause_s = max(self._lease.pause_s, span)
        self._set_cap()
        if self._wake_timer is not None:
            self._wake_timer.cancel()
        self._wake_timer = self._loop.call_at(until, self._resume)

    def _resume(self) -> None:
        self._wake_timer = None
        self._threshold = max(1.0, self._limit)
        self._limit = max(1.0, self._limit / 2)
        self._set_cap()

    def _shrink(self, number: int) -> bool:
        if number <= self._shrunk_at:
            return False
        # What was really in flight, not what would have been allowed, was too much; but one refusal while
        # little was in flight says little about a wide window.
        seen = min(self._limit, max(float(self.in_flight + 1), self._limit / 2))
        self._limit = max(1.0, seen * SHRINK)
        self._threshold = self._limit
        self._shrunk_at = self._sequence
        self._set_cap()
        return True

    def _back_to_work(self) -> None:
        self._streak = self._silences = 0
        if self._probing:
            self._probing = False
            self._open_soon()
            self._set_cap()

    def _open_soon(self) -> None:
        if not self._opens:
            return
        self._opens = False
        self._opening = self._loop.call_later(OPENING_STEP_S, self._open)
        self._start, self._limit = self._limit, min(self._limit, OPENING_FIRST)

    def _open(self) -> None:
        """Widen once more while the window is full and nothing has gone wrong: once in a gate's life."""
        self._opening = None
        in_trouble = self._shrunk_at or self.pauses or self._streak or self._probing
        if in_trouble:
            return
        if not self._waiters or self.in_flight < int(self._limit):
            self._limit = max(self._limit, self._start)
            self._set_cap()
            return
        step = min(self._limit / OPENING_FIRST, self.max_concurrency / OPENING_STEPS)
        self._limit = min(self._limit + step, float(self.max_concurrency))
        self._set_cap()
        if self._limit < self.max_concurrency:
            self._opening = self._loop.call_later(OPENING_STEP_S, self._open)

    def _set_cap(self) -> None:
        cap = min(int(self._limit), self.max_concurrency)
        if self._lease is not None:
            cap = min(cap, self._lease.share)
            self._sheds = self.in_flight > self._lease.share
        if self._probing:
            cap = min(cap, 1)
        self._cap = 0 if self._pause_until > self._loop.time() else cap
        if self._waiters:
            self._wake()

    # -- words

    @property
    def limit(self) -> int:
        """Calls that may be in flight now, pauses aside."""
        return int(self._limit)

    @property
    def state_words(self) -> str:
        """For a progress line: ``"paused until 14:32: rate limit"``, or ``"12 of 40 in flight"``."""
        return self.pause_words or f"{self.in_flight} of {max(self._cap, self.in_flight)} in flight"

    @property
    def pause_words(self) -> str:
        """Until when and why nothing is sent; empty when calls may go."""
        left_s = self._pause_until - self._loop.time()
        if left_s <= 0:
            return ""
        at = time.localtime(self._wall_clock() + left_s)
        shape = "%H:%M" if left_s >= 60 else "%H:%M:%S"
        return f"paused until {time.strftime(shape, at)}: {self._paused_for}"

    async def close(self) -> None:
        """Stop the timers and the question to the coordinator. Whoever still waits is cancelled."""
        for future, *_ in self._waiters:
            future.cancel()
        if self._wake_timer is not None:
            self._wake_timer.cancel()
        if self._opening is not None:
            self._opening.cancel()
        if self._lease is not None:
            await self._lease.close()

    # -- the coordinator's side

    def resize(self, max_concurrency: int) -> None:
        """Take another ceiling: the latest run's word counts."""
        never_shrunk = self._threshold >= self.max_concurrency
        self._threshold = float(max_concurrency) if never_shrunk else min(self._threshold, max_concurrency)
        self._limit = min(self._limit, float(max_concurrency))
        self.max_concurrency = max_concurrency
        self._set_cap()

    def granted(self, grant: Grant, *, penalised: bool) -> None:
        """Take over a grant: share, penalties and pause of others."""
        self.retries.holders = grant.holders
        self.counts_most = grant.counts_most
        if grant.answered and not self.answers:
            self.answers = 1
            self._probing = False
            self._open_soon()
        if grant.stop:
            self.fail(RunError(grant.stop, fix="resume the run", code="RUN-STOPPED"))
        self.told(grant.pause_s, penalised=penalised)
        self._set_cap()

    def told(self, pause_s: float, *, penalised: bool) -> None:
        """Another process was refused: shrink, and wait as long as it was asked to."""
        if penalised:
            self._shrink(self._sequence)
        if pause_s > 0 and self._loop.time() + pause_s > self._pause_until + 0.1:
            self.pause(pause_s, "rate limit", tell=False)

    def noticed(self, notice: Notice) -> None:
        """Take over what the coordinator sent unasked."""
        if self._lease is not None:
            self._lease.told(notice)

    def shared(self) -> None:
        """The share became another."""
        self._set_cap()

    def restocked(self) -> None:
        """Permits arrived."""
        self._wake()
