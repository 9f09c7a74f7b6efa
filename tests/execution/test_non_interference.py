"""Non-interference: what other rows say, how many there are, where and in which partition, changes no row's requests.

A row's requests are read from the endpoint's log, byte for byte, tools' turns, images and recordings included. Rows
that share a prompt are the documented exception (docs/guarantees.md, 4): a pack, or a partition as a unit, sees its
own rows only.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import apwa_dask as apwa
from apwa_dask.agents import capabilities
from apwa_dask.testing import Script, ScriptedServer
from apwa_dask.testing.script import ChatRequest

ROWS = 6
WAV = b"RIFF\x40\x00\x00\x00WAVEfmt " + bytes(range(64))
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(64))
Requests = dict[int, Counter[str]]
"""By the number in a row's text: its requests, and how often each was made."""

arrangements = st.tuples(
    st.lists(st.integers(0, ROWS - 1), unique=True, min_size=1), st.integers(1, 4), st.text(max_size=12)
)
"""Rows that are there and their order, the number of partitions, and what a stranger among them says."""


def frame(order: Sequence[int]) -> pd.DataFrame:
    rows = {
        "text": [f"note {k}: {'long ' * k}" for k in order],
        "picture": [PNG + bytes([k]) for k in order],
        "recording": [WAV + bytes([k]) for k in order],
    }
    return pd.DataFrame(rows, index=[f"i{k}" for k in order])


def answer(request: ChatRequest) -> Any:
    """Calls the tool where there is one and it has not answered yet; else as the server makes answers."""
    if not request.body.get("tools") or request.turn:
        return None
    return {"tool_calls": [{"name": "length_of", "arguments": {"text": request.text[:40]}}]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ScriptedServer, Path]]:
    with (
        pytest.MonkeyPatch.context() as patch,
        ScriptedServer(Script(respond=answer), in_process=True) as server,
    ):
        patch.setattr(capabilities, "_registry", dict(capabilities._registry))

        @apwa.capability(power="pure")
        def length_of(text: str) -> int:
            """Number of characters of a text."""
            return len(text)

        yield server, tmp_path_factory.mktemp("stores")


_numbers = itertools.count()


def requests_of(world: tuple[ScriptedServer, Path], table: apwa.Table) -> Requests:
    """Run with an empty journal; the requests of each row."""
    server, stores = world
    server.reset()
    model = apwa.Model("m", base_url=server.base_url, api_key_env="")
    store = str(stores / f"s{next(_numbers)}")
    table.run(model=model, store=store, scheduler="threads", progress=False).wait()
    found: Requests = defaultdict(Counter)
    for call in server.log():
        # the endpoint numbers its tool calls in order of arrival, and hears its own numbers again
        body = re.sub(r"call_\d+_", "call_", json.dumps(call.body, sort_keys=True))
        for number in {int(digits) for digits in re.findall(r"note (\d+):", body)}:
            found[number][body] += 1
    return found


def steps(rows: pd.DataFrame, npartitions: int, **unit: Any) -> apwa.Table:
    """Map with a tool and a picture, one with a recording, filter, flat_map, and a map of all that they wrote."""
    return (
        apwa.from_pandas(rows, npartitions=npartitions)
        .map("Count.", inputs=["text", "picture"], output={"count": int}, tools=["length_of"], id="count")
        .map("Who speaks?", inputs=["text", "recording"], output={"who": str}, id="hear")
        .filter("Keep it?", inputs=["text", "count", "who"], id="keep")
        .flat_map("Split.", inputs=["text"], output={"part": str}, id="split", max_rows=3)
        .map("Judge.", inputs=["text", "part", "count", "who"], output={"grade": int}, id="judge", **unit)
    )


@pytest.fixture(scope="module")
def alone(world: tuple[ScriptedServer, Path]) -> Callable[[int], Counter[str]]:
    """The requests of a row when it is the only row of its table."""
    found: Requests = {}
    for k in range(ROWS):
        found |= requests_of(world, steps(frame([k]), 1))
    assert set(found) == set(range(ROWS))
    return found.__getitem__


def test_the_rows_alone_reach_every_step_with_tools_pictures_and_recordings(
    alone: Callable[[int], Counter[str]],
) -> None:
    """Without this, the property below could hold of nothing."""
    bodies = [body for k in range(ROWS) for body in alone(k)]
    for word in (
        "image_url",
        '"input_audio"',
        "Who speaks?",
        '"role": "tool"',
        "Keep it?",
        "Split.",
        "Judge.",
    ):
        assert any(word in body for body in bodies), word
    heard = {base64.b64encode(WAV + bytes([k])).decode(): k for k in range(ROWS)}
    for data, k in heard.items():
        assert any(data in body for body in alone(k)), "each row's own recording is sent"
        assert not any(data in body for other in range(ROWS) if other != k for body in alone(other))


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(arrangements)
def test_permuting_splitting_and_dropping_rows_changes_no_byte_of_another_rows_requests(
    world: tuple[ScriptedServer, Path],
    alone: Callable[[int], Counter[str]],
    given_: tuple[list[int], int, str],
) -> None:
    order, npartitions, said = given_
    rows = frame(order)
    stranger = frame([ROWS]).assign(text=f"stranger {said}")

    found = requests_of(world, steps(pd.concat([rows, stranger]), npartitions))

    changed = [k for k in order if found[k] != alone(k)]
    assert not changed
    assert set(found) <= set(order)


@settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.permutations(range(3)), st.integers(0, 2))
def test_a_partition_as_a_unit_sees_its_own_rows_only(
    world: tuple[ScriptedServer, Path], order: list[int], dropped: int
) -> None:
    def table(middle: list[int]) -> apwa.Table:
        frames = [frame([0, 1]), frame(middle), frame([5, 6])]
        parts = apwa.from_pandas(frames[0]), apwa.from_pandas(frames[1]), apwa.from_pandas(frames[2])
        one = parts[0].concat(parts[1], parts[2])
        return one.map("Grade.", inputs="text", output={"grade": int}, unit="partition")

    whole = requests_of(world, table([2, 3, 4]))
    changed = requests_of(world, table([2 + k for k in order if k != dropped]))

    for k in (0, 1, 5, 6):
        assert changed[k] == whole[k]
    for found in (whole, changed):
        together = [set(map(int, re.findall(r"note (\d+):", body))) for body in set().union(*found.values())]
        assert all(numbers <= {0, 1} or numbers <= {2, 3, 4} or numbers <= {5, 6} for numbers in together)


def test_packs_are_the_documented_exception_and_stay_within_their_partition(
    world: tuple[ScriptedServer, Path],
) -> None:
    table = apwa.from_pandas(frame(range(ROWS)), npartitions=3)
    found = requests_of(world, table.map("Grade.", inputs="text", output={"grade": int}, unit="pack(2)"))

    together = {frozenset(map(int, re.findall(r"note (\d+):", body))) for k in found for body in found[k]}
    assert any(len(numbers) == 2 for numbers in together), "rows do share prompts"
    assert all(len({k // 2 for k in numbers}) == 1 for numbers in together)
