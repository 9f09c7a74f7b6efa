"""Faults 1 to 5 of the matrix: limits, announced or not, moving, and shared by many processes.

Rates are scaled up, so that what takes minutes at a provider's pace takes seconds; the bars are shares.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from statistics import median

import orjson
import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.models.client import Client
from apwa_dask.models.coordinator import Coordinator, LocalLease
from apwa_dask.models.endpoints import Endpoints
from apwa_dask.models.transport import Raw
from apwa_dask.models.types import Message, OutcomeClass, Purpose, Request, Template
from apwa_dask.testing import Script, ServerLog

RPM = 6_000
PER_S = RPM / 60
ANSWER = {
    "choices": [{"message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    "model": "m",
}


def frame_of(rows: int) -> pd.DataFrame:
    return pd.DataFrame({"text": [f"row {k}" for k in range(rows)]})


def mapped(frame: pd.DataFrame, npartitions: int = 4) -> apwa.Table:
    return apwa.from_pandas(frame, npartitions=npartitions).map("say", inputs="text", output={"a": int})


def refused_share(log: ServerLog) -> float:
    return sum(call.status == 429 for call in log) / len(log)


def rate_per_s(log: ServerLog, skip_s: float = 0.0) -> float:
    """Answers a second, from `skip_s` after the first call until the last."""
    times = [call.t_start for call in log if call.status == 200]
    begin = times[0] + skip_s
    return sum(t >= begin for t in times) / (times[-1] - begin)


def steady_rate_per_s(log: ServerLog, skip_s: float = 0.0) -> float:
    """The same, in most half seconds: a machine that stands still for a moment is not the pace's fault."""
    times = [call.t_start for call in log if call.status == 200]
    begin = times[0] + skip_s
    halves = Counter(int((t - begin) / 0.5) for t in times if t >= begin)
    return 2 * median(halves[k] for k in range(int((times[-1] - begin) / 0.5)))


def test_fault_01_a_storm_of_429s_is_ended_by_keeping_to_the_announced_rate(
    scripted_server, model_at, canary_key, invariants, store
):
    frame = frame_of(600)
    server = scripted_server(rpm=RPM, latency_s=0.02)  # 64 in flight ask for thirty times the limit

    run = mapped(frame).run(model=model_at(server, max_concurrency=64), store=store, progress=False)
    result = invariants.hold(run, server, frame, canary=canary_key)

    assert (result["_apwa_status"] == "ok").all()
    assert refused_share(server.log()) <= 0.05
    assert steady_rate_per_s(server.log()) >= 0.85 * PER_S


class Wall:
    """A transport that answers at once, but for one 429 that asks for `wait_s`; on the loop's clock."""

    def __init__(self, wait_s: int) -> None:
        self.wait_s, self.refused_at = wait_s, 0.0
        self.posted: list[float] = []

    async def post(self, body: bytes, timeout_s: float) -> Raw:
        now = asyncio.get_running_loop().time()
        self.posted.append(now)
        number = len(self.posted)
        await asyncio.sleep(0.1)
        if number == 20:
            self.refused_at = now + 0.1
            error = {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}
            return Raw(429, {"retry-after": str(self.wait_s)}, orjson.dumps(error))
        return Raw(200, {}, orjson.dumps(ANSWER))

    async def get_models(self, timeout_s: float) -> Raw:
        raise AssertionError("nobody asks for the list of models here")

    async def close(self) -> None:
        return None


@pytest.mark.parametrize("wait_s", [1, 30, 300])
def test_fault_02_nothing_is_sent_inside_the_pause_that_was_asked_for(virtual_time, canary_key, wait_s):
    wall = Wall(wait_s)
    words: list[str] = []

    async def story() -> list[OutcomeClass]:
        endpoints = Endpoints(LocalLease(Coordinator(asyncio.get_running_loop().time)).lease)
        model = apwa.Model("m", base_url="http://127.0.0.1:9/v1", max_concurrency=4)
        lane = await endpoints.lane(model)
        await lane.transport.close()
        lane.transport = wall
        client, template = Client(endpoints), Template(model, ())
        requests = [Request(template, (Message("user", f"row {k}"),)) for k in range(60)]
        calls = asyncio.gather(*(client.call(request, Purpose()) for request in requests))
        while not words and not calls.done():
            await asyncio.sleep(0.05)
            if lane.gate.pause_words:
                words.append(lane.gate.pause_words)
        replies = await calls
        await endpoints.close()
        return [reply.outcome for reply in replies]

    outcomes = virtual_time(story())

    assert set(outcomes) == {OutcomeClass.OK}
    assert wall.refused_at > 0
    in_pause = [t for t in wall.posted if wall.refused_at < t < wall.refused_at + wait_s]
    assert in_pause == []
    assert len(wall.posted) == 61, "the refused call was sent once more"
    back = [t for t in wall.posted if t >= wall.refused_at + wait_s]
    assert min(back) <= wall.refused_at + 1.1 * wait_s + 1.0, "a jittered restart, not a longer pause"
    assert words[0].startswith("paused until ")
    assert words[0].endswith(": rate limit")


def test_fault_03_a_429_of_a_gateway_without_any_hint_is_survived_by_adapting(
    scripted_server, model_at, invariants, store
):
    frame = frame_of(700)
    server = scripted_server(
        rpm=RPM, limit_headers="none", retry_after="none", limit_html=True, latency_s=0.1
    )

    run = mapped(frame).run(model=model_at(server, max_concurrency=64), store=store, progress=False)
    result = run.result(status=True)

    invariants.i1_every_row_has_one_status(run, len(frame))
    invariants.i2_order_and_index_are_the_inputs(result, frame)
    assert (result["_apwa_status"] == "ok").all()
    log = server.log()
    assert refused_share(log[len(log) // 2 :]) <= 0.05
    assert rate_per_s(log) >= 0.7 * PER_S


@pytest.mark.slow
def test_fault_04_a_limit_that_halves_and_doubles_is_followed_both_ways(
    scripted_server, model_at, canary_key, invariants, store
):
    frame = frame_of(1_500)
    script = Script(rpm=2 * RPM, latency_s=0.02)
    server = scripted_server(script)

    run = mapped(frame).run(model=model_at(server, max_concurrency=64), store=store, progress=False)
    marks = []
    for calls, rpm in ((400, RPM), (800, 2 * RPM)):
        server.wait_until(lambda stats, calls=calls: stats.calls >= calls, timeout_s=60)
        server.set(script.but(rpm=rpm))
        marks.append(len(server.log()))
    result = invariants.hold(run, server, frame, canary=canary_key)

    assert (result["_apwa_status"] == "ok").all()
    log = server.log()
    halved, doubled = log[marks[0] : marks[1]], log[marks[1] :]
    assert refused_share(log) <= 0.05
    assert rate_per_s(halved, skip_s=1.5) <= 1.1 * PER_S
    assert steady_rate_per_s(doubled, skip_s=1.5) >= 0.8 * 2 * PER_S
