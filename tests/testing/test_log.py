"""The log is the bill: every call, once, in order, with what was paid for it."""

from __future__ import annotations

import json
import random
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apwa_dask.testing import Fault, On, Script, ScriptedServer, count_tokens, expected_answer

pytestmark = pytest.mark.timeout(120)


def test_the_log_holds_each_call_in_order_of_arrival(scripted_server, post, label_schema) -> None:
    server = scripted_server()
    texts = [f"text {i}" for i in range(50)]
    post(server, *texts, schema=label_schema, temperature=0)
    log = server.log()
    assert log.texts == texts
    assert [call.n for call in log] == list(range(1, 51))
    assert all(earlier.t_end <= later.t_start for earlier, later in pairwise(log))
    call = log[7]
    assert call.messages == [{"role": "user", "content": "text 7"}]
    assert call.body["temperature"] == 0
    assert call.answer == expected_answer(server.script, "text 7", label_schema)
    assert (call.path, call.model, call.status, call.finish_reason) == (
        "/v1/chat/completions",
        "small",
        200,
        "stop",
    )
    assert call.prompt_tokens == count_tokens("text 7")
    assert call.completion_tokens == count_tokens(call.answer)
    assert len(log.matching(r"text 4\d")) == 10


def test_calls_posted_at_once_are_all_counted(scripted_server, post) -> None:
    server = scripted_server(latency_s=3.0)
    post(server, *[f"text {i % 30}" for i in range(60)], at_once=True)
    stats, log = server.stats(), server.log()
    assert stats.calls == len(log) == 60
    assert stats.max_in_flight == 60
    assert log.distinct_texts == 30
    assert (stats.billed_prompt_tokens, stats.billed_completion_tokens) == log.billed_tokens


def test_a_call_in_flight_is_in_the_log_without_an_end(scripted_server, post) -> None:
    server = scripted_server(latency_s=30.0)
    [got] = post(server, "x", timeout_s=1.0)
    assert got.error == "TimeoutError"
    server.wait_until(lambda stats: stats.in_flight == 0)
    [call] = server.log()
    assert (call.aborted, call.billed, call.status) == (True, True, 0)
    assert call.completion_tokens > 0


def test_a_cancelled_call_is_free_only_where_the_script_says_so(scripted_server, post) -> None:
    server = scripted_server(latency_s=30.0, cancel_is_free=True)
    post(server, "x", timeout_s=1.0)
    stats = server.wait_until(lambda stats: stats.in_flight == 0)
    assert (stats.calls, stats.billed, stats.aborted) == (1, 0, 1)


def test_without_bodies_the_log_keeps_hashes_and_counts_only(scripted_server, post) -> None:
    server = scripted_server(keep_bodies=False, keep_calls=10)
    post(server, *[f"secret {i}" for i in range(25)])
    log = server.log()
    assert [call.n for call in log] == list(range(16, 26))
    assert "secret" not in repr(log)
    assert log.distinct_texts == 10
    assert server.stats().calls == server.stats().billed == 25


def test_reset_empties_log_counters_attempts_and_limits(scripted_server, post) -> None:
    server = scripted_server(rpm=1, faults=(Fault("status", status=500, times=1),))
    assert [got.status for got in post(server, "x", "x")] == [500, 429]
    server.reset()
    assert (server.calls, len(server.log()), server.max_in_flight) == (0, 0, 0)
    assert post(server, "x")[0].status == 500


def test_a_log_file_has_one_line_a_call(tmp_path, post) -> None:
    import subprocess
    import sys

    script, log = tmp_path / "script.json", tmp_path / "calls.jsonl"
    script.write_bytes(Script(answers="echo").to_json())
    command = [sys.executable, "-m", "apwa_dask.testing.server", "--script", str(script), "--log", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        word, url = process.stdout.readline().split()
        server = type("Standalone", (), {"base_url": url})
        assert word == "READY"
        assert [got.content for got in post(server, "a", "b")] == ["a", "b"]
        process.terminate()
        assert process.wait(60) == 0
    assert [json.loads(line)["text"] for line in log.read_text().splitlines()] == ["a", "b"]


KINDS = [
    "status",
    "insufficient_quota",
    "html_200",
    "refusal",
    "length",
    "no_usage",
    "empty_body",
    "reset",
    "disconnect",
]
FREE = {"status", "insufficient_quota", "html_200", "disconnect"}


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    faults=st.lists(
        st.builds(
            Fault,
            kind=st.sampled_from(KINDS),
            on=st.builds(On, every=st.integers(1, 5), fraction=st.floats(0, 1), seed=st.integers(0, 9)),
            times=st.sampled_from([None, 1]),
        ),
        max_size=4,
    ),
    seed=st.integers(0, 1000),
)
def test_under_any_script_every_call_is_logged_once_and_billed_if_tokens_were_made(
    post, faults, seed
) -> None:
    texts = [f"row {random.Random(seed).randrange(10)} {i % 7}" for i in range(40)]
    with ScriptedServer(Script(faults=tuple(faults)), in_process=True) as server:
        got = post(server, *texts, at_once=True)
        stats, log = server.stats(), server.log()
    assert sorted(log.texts) == sorted(texts)
    assert (stats.calls, stats.in_flight, stats.answering) == (40, 0, 0)
    assert all(call.billed == (call.fault not in FREE) for call in log)
    assert sum(answer.status == 200 for answer in got) <= log.by_status.get(200, 0)
    assert stats.by_fault == log.by_fault


def test_a_script_survives_the_journey_as_json() -> None:
    from apwa_dask.errors import ConfigError
    from apwa_dask.testing import Lognormal, Rule

    script = Script(
        mapping={"a": {"b": [1, None]}},
        rules=(Rule("x", "y", where="last", turn=1),),
        latency_s=Lognormal(0.1, 0.5, 3),
        models=("m",),
        faults=(Fault("reset", on=On(calls=(1, 2), between_s=(0.0, 5.0)), times=1), Fault("hang", on="text")),
    )
    assert Script.from_json(script.to_json()) == script
    with pytest.raises(ConfigError, match="callable"):
        Script(respond=lambda request: "x").to_json()
    with pytest.raises(ConfigError, match="did you mean 'latency_s'"):
        Script.from_json(b'{"latency": 1}')
    with pytest.raises(ConfigError, match="answer mode"):
        Script(answers="atuo")  # type: ignore[arg-type]
