"""Files and batches of the scripted server, as the official client sees them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import openai
import pytest

from apwa_dask.errors import ConfigError
from apwa_dask.testing import BatchFault, BatchRules, Fault, Script, ScriptedServer


def client_of(server: ScriptedServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.base_url, api_key="sk-test", max_retries=0)


def line(k: int, model: str = "m") -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": f"row {k}"}]}
    return {"custom_id": f"id-{k}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def created(client: openai.OpenAI, lines: Sequence[dict[str, Any]], **metadata: str) -> Any:
    content = "".join(json.dumps(item) + "\n" for item in lines).encode()
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    assert file.bytes == len(content)
    return client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata=metadata or None,
    )


def results(client: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    if file_id is None:
        return {}
    lines = [json.loads(text) for text in client.files.content(file_id).text.splitlines()]
    return {item["custom_id"]: item for item in lines}


def test_a_batch_answers_each_line_under_its_custom_id(scripted_server):
    server = scripted_server()
    client = client_of(server)

    made = created(client, [line(k) for k in range(5)], run="r1")
    batch = client.batches.retrieve(made.id)

    assert (made.status, batch.status) == ("in_progress", "completed")
    assert batch.request_counts.model_dump() == {"total": 5, "completed": 5, "failed": 0}
    assert batch.metadata == {"run": "r1"}
    assert batch.error_file_id is None
    answers = results(client, batch.output_file_id)
    assert sorted(answers) == [f"id-{k}" for k in range(5)]
    assert all(item["response"]["body"]["choices"][0]["message"]["content"] for item in answers.values())
    assert sorted(server.log().lines.texts) == [f"row {k}" for k in range(5)]
    assert len(server.log().billed) == 5


def test_lines_that_fail_are_in_the_error_file(scripted_server):
    server = scripted_server(Script(faults=(Fault("status", on="row 1", status=400),)))
    client = client_of(server)

    batch = client.batches.retrieve(created(client, [line(k) for k in range(3)]).id)

    assert sorted(results(client, batch.output_file_id)) == ["id-0", "id-2"]
    failed = results(client, batch.error_file_id)
    assert failed["id-1"]["response"]["status_code"] == 400
    assert "scripted error" in failed["id-1"]["response"]["body"]["error"]["message"]
    assert batch.request_counts.model_dump() == {"total": 3, "completed": 2, "failed": 1}


def test_an_expired_batch_has_part_of_its_answers_and_names_the_rest(scripted_server):
    server = scripted_server(batches=BatchRules(faults=(BatchFault("expired", answered=0.5),)))
    client = client_of(server)

    batch = client.batches.retrieve(created(client, [line(k) for k in range(4)]).id)

    assert batch.status == "expired"
    assert sorted(results(client, batch.output_file_id)) == ["id-0", "id-1"]
    rest = results(client, batch.error_file_id)
    assert {key: item["error"]["code"] for key, item in rest.items()} == {
        "id-2": "batch_expired",
        "id-3": "batch_expired",
    }
    assert len(server.log().billed) == 2
    assert server.stats().in_flight == 0


def test_a_batch_that_fails_validation_says_why_and_costs_nothing(scripted_server):
    server = scripted_server(batches=BatchRules(faults=(BatchFault("failed", batches=(1,), line=2),)))
    client = client_of(server)

    batch = created(client, [line(k) for k in range(3)])

    assert batch.status == "failed"
    assert [(e.code, e.line) for e in batch.errors.data] == [("invalid_json_line", 2)]
    assert len(server.log()) == 0
    assert created(client, [line(0)]).status == "in_progress"


@pytest.mark.parametrize(
    ("rules", "lines", "code"),
    [
        (BatchRules(max_requests=2), [line(k) for k in range(3)], "file_too_large"),
        (BatchRules(max_bytes=100), [line(0)], "file_too_large"),
        (BatchRules(enqueued_tokens=3), [line(k) for k in range(3)], "token_limit_exceeded"),
        (BatchRules(), [line(0), line(0)], "duplicate_custom_id"),
        (BatchRules(), [line(0), line(1, model="other")], "mismatched_model"),
    ],
)
def test_the_limits_of_a_batch_are_checked(scripted_server, rules, lines, code):
    batch = created(client_of(scripted_server(batches=rules)), lines)

    assert batch.status == "failed"
    assert batch.errors.data[0].code == code


def test_a_slow_batch_counts_up_and_can_be_cancelled(scripted_server):
    server = scripted_server(batches=BatchRules(seconds=600.0))
    client = client_of(server)
    made = created(client, [line(k) for k in range(3)])
    assert client.batches.retrieve(made.id).status == "in_progress"

    assert client.batches.cancel(made.id).status == "cancelling"

    ended = client.batches.retrieve(made.id)
    assert ended.status == "cancelled"
    assert ended.output_file_id is None
    assert len(server.log().billed) == 0


def test_batches_are_listed_newest_first_in_pages(scripted_server):
    client = client_of(scripted_server())
    ids = [created(client, [line(k)]).id for k in range(5)]

    page = client.batches.list(limit=2)

    assert [batch.id for batch in page.data] == ids[:2:-1]
    assert [batch.id for batch in page] == ids[::-1]


def test_a_batch_whose_making_was_not_heard_of_can_be_found(scripted_server):
    server = scripted_server(batches=BatchRules(faults=(BatchFault("lost_reply", batches=(1,)),)))
    client = client_of(server)

    with pytest.raises(openai.APIConnectionError):
        created(client, [line(0)], run="r1")

    (found,) = client.batches.list().data
    assert found.metadata == {"run": "r1"}
    assert [shown["id"] for shown in server.batches()] == [found.id]


def test_a_server_without_batches_answers_404(scripted_server):
    client = client_of(scripted_server(batches=BatchRules(offered=False)))

    with pytest.raises(openai.NotFoundError):
        client.batches.list()


def test_files_are_shown_and_deleted_and_the_key_is_checked(scripted_server):
    server = scripted_server(api_key="sk-test")
    client = client_of(server)
    file = client.files.create(file=("in.jsonl", b"{}\n"), purpose="batch")
    assert client.files.retrieve(file.id).filename == "in.jsonl"
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(file.id)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="sk-wrong").files.retrieve(file.id)


def test_an_unknown_fault_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="expired"):
        BatchFault("expird")  # type: ignore[arg-type]
