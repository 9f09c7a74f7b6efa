"""Requests that several processes of a cluster would send at once are sent by one of them.

Before a window of rows is dispatched, one question tells the scheduler which requests this process is about to
send. What another process is sending already waits until its answer is in the journal they share. This is only
an economy: where the scheduler does not answer in time, every process calls for itself, and where a process
dies its requests are free again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from apwa_dask.errors import StoreError
from apwa_dask.execution.caller import JournaledCaller, reply_of
from apwa_dask.execution.crew import resting
from apwa_dask.models.claimed import ANSWERED, DIGEST_BYTES, YOURS
from apwa_dask.models.types import Purpose, Reply, Request
from apwa_dask.store.journal import Journal
from apwa_dask.store.record import Record

__all__ = ["ClaimFn", "Sharing", "SharingCaller"]

ClaimFn = Callable[[str, bytes, bytes, bytes], Awaitable[bytes]]
"""``await claim(room, asked, answered, dropped)``: see `ClaimBook.exchange`."""

TICK_S = 0.5
"""How often answers are announced, and those of others looked for."""
HEARTBEAT_TICKS = 10
PATIENCE_S = 3.0
"""A scheduler that takes longer to answer is left alone for `SULK_S`."""
SULK_S = 30.0
LAST_TRIES = 3
"""What the scheduler did not hear is told so often at the end, and a store that cannot be read is looked at."""
MOST_FOUND = 8192
"""Answers of others that are kept for rows that have not asked yet: more than all windows of a process."""


class Sharing:
    """One run's part, in one process; lives on the private loop.

    Parameters
    ----------
    claim : callable
        Way to the scheduler's `ClaimBook`.
    room : str
        What tells this journal from others.
    journal : Journal
        Shared by the processes; read and flushed in threads.
    """

    def __init__(self, claim: ClaimFn, room: str, journal: Journal) -> None:
        self._claim, self._room, self._journal = claim, room, journal
        self._mine: set[bytes] = set()
        self._awaited: dict[bytes, asyncio.Future[Record | None]] = {}
        self._found: dict[bytes, Record] = {}
        self._answered: list[bytes] = []
        self._dropped: list[bytes] = []
        self._untold: tuple[list[bytes], list[bytes]] = ([], [])
        """Answered and dropped, of questions that the scheduler did not hear: the next one takes them along."""
        self._ticker: asyncio.Task[None] | None = None
        self._last_words: asyncio.Task[None] | None = None
        self._unread = 0
        """Times in a row that the answers of others could not be read."""
        self._quiet_until_s = 0.0
        self._over = False

    async def announce(self, keys: Sequence[bytes]) -> None:
        """Ask for the right to send these requests. What others are sending is waited for in `answer`."""
        if self._over:
            return
        known = (self._mine, self._awaited, self._found)
        fresh = [key for key in dict.fromkeys(keys) if not any(key in room for room in known)]
        states = await self._exchange(fresh)
        loop = asyncio.get_running_loop()
        for key, state in zip(fresh, states, strict=False):
            if state == YOURS:
                self._mine.add(key)
            elif not self._over:
                self._awaited.setdefault(key, loop.create_future())
        if self._mine or self._awaited:
            self._tick_on()
        if ANSWERED in states:
            await self._fetch([key for key, state in zip(fresh, states, strict=False) if state == ANSWERED])

    async def answer(self, key: bytes) -> Record | None:
        """What another process was told; None: send it yourself. Returns at once where nobody else sends it."""
        awaited = self._awaited.get(key)
        if awaited is None:
            return self._found.get(key)
        with resting():
            return await asyncio.shield(awaited)

    def ended(self, key: bytes, *, kept: bool) -> None:
        """A request that was sent here has ended; `kept`: its answer is in the journal for all."""
        if key in self._mine:
            (self._answered if kept else self._dropped).append(key)

    def give_up(self) -> None:
        """The run is stopping: nobody waits any longer, and what was not sent is free for others."""
        self._over = True
        self._dropped.extend(self._mine.difference(self._answered))
        for awaited in self._awaited.values():
            if not awaited.done():
                awaited.set_result(None)
        self._awaited.clear()

    def _tick_on(self) -> None:
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        """Announce and look until nothing of ours is under way and nothing of others is waited for."""
        ticks = 0
        while self._mine or self._awaited:
            await asyncio.sleep(TICK_S)
            ticks += 1
            if self._answered or self._dropped or self._awaited or ticks % HEARTBEAT_TICKS == 0:
                await self._tick()
        self._last_words, self._ticker = self._ticker, None
        for _ in range(LAST_TRIES):
            if not any(self._untold):
                return
            await asyncio.sleep(SULK_S)
            await self._exchange(())

    async def _tick(self) -> None:
        answered, dropped = self._answered, self._dropped
        self._answered, self._dropped = [], []
        try:
            if answered:
                await asyncio.to_thread(self._journal.flush)
        except StoreError:
            # the journal tries again, and says so: they are told of when they are there to be read
            self._answered[:0], answered = answered, []
            if self._over:
                dropped, self._answered = [*dropped, *self._answered], []
        awaited = list(self._awaited)
        states = await self._exchange(awaited, answered, dropped)
        self._mine.difference_update(answered, dropped)
        ready = [key for key, state in zip(awaited, states, strict=False) if state == ANSWERED]
        for key, state in zip(awaited, states, strict=False):
            if state == YOURS:
                self._mine.add(key)
                if self._over:  # stopped meanwhile: nobody sends it here
                    self._dropped.append(key)
                self._settle(key, None)
        if ready:
            await self._fetch(ready)

    async def _fetch(self, keys: Sequence[bytes]) -> None:
        """Hand out answers that other processes have made durable; one that is not found is sent here.

        Where the store cannot be read they are looked for again, and then sent here too.
        """

        def read() -> dict[bytes, Record]:
            self._journal.refresh()
            return self._journal.get_many(keys)

        try:
            found, self._unread = await asyncio.to_thread(read), 0
        except StoreError:
            self._unread += 1
            if self._unread < LAST_TRIES:
                return
            found = {}
        for key in keys:
            self._settle(key, found.get(key))

    def _settle(self, key: bytes, record: Record | None) -> None:
        if record is not None:
            self._found[key] = record
            while len(self._found) > MOST_FOUND:
                del self._found[next(iter(self._found))]
        awaited = self._awaited.pop(key, None)
        if awaited is not None and not awaited.done():
            awaited.set_result(record)

    async def _exchange(
        self, asked: Sequence[bytes], answered: Sequence[bytes] = (), dropped: Sequence[bytes] = ()
    ) -> bytes:
        """States of `asked`; all ours where the scheduler does not answer in time."""
        loop = asyncio.get_running_loop()
        untold, self._untold = self._untold, ([], [])
        ended = ([*untold[0], *answered], [*untold[1], *dropped])
        if loop.time() >= self._quiet_until_s:
            question = self._claim(self._room, _joined(asked), _joined(ended[0]), _joined(ended[1]))
            try:
                return await asyncio.wait_for(question, PATIENCE_S)
            except (OSError, TimeoutError):
                self._quiet_until_s = loop.time() + SULK_S
            except asyncio.CancelledError:  # it may have been heard, and nobody sends what it asked for
                self._untold = ([*ended[0], *self._untold[0]], [*ended[1], *asked, *self._untold[1]])
                self._tick_on()
                raise
        for kept, keys in zip(self._untold, ended, strict=True):
            kept.extend(keys)
        return bytes([YOURS]) * len(asked)


class SharingCaller(JournaledCaller):
    """A `JournaledCaller` that waits for what other processes are sending already."""

    def __init__(self, *given: Any, sharing: Sharing, **options: Any) -> None:
        super().__init__(*given, **options)
        self._sharing = sharing

    async def call(self, request: Request, purpose: Purpose) -> Reply:
        """Answer from another process's call if there is one, else as any caller."""
        key = request.fingerprint(self._namespace)
        record = await self._sharing.answer(key)
        if record is not None and self._may_serve(request, record):
            return reply_of(record)
        reply: Reply | None = None
        try:
            reply = await super().call(request, purpose)
            return reply
        finally:
            self._sharing.ended(key, kept=reply is not None and reply.ok)


def _joined(keys: Sequence[bytes]) -> bytes:
    return b"".join(key[:DIGEST_BYTES] for key in keys)
