"""Golden documents: what scripts read with ``--json``; APWA_GOLDEN=write renews them."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

GOLDEN = Path(__file__).parent / "golden"
COMMANDS = {
    "ask": ("ask", "Which are complaints?", "reviews.csv"),
    "ask-failed-rows": ("ask", "Which are complaints?", "reviews.csv", "--max-failed", "0"),
    "plan": ("plan", "Which are complaints?", "reviews.csv"),
    "explain": ("explain", "Which are complaints?", "reviews.csv"),
    "estimate": ("estimate", "Which are complaints?", "reviews.csv"),
    "preview": ("preview", "Which are complaints?", "reviews.csv", "-n", "2", "--seed", "7"),
    "profile": ("profile", "reviews.csv"),
    "runs": ("runs",),
    "status": ("status", "calm-otter"),
    "resume": ("resume", "calm-otter"),
    "retry": ("retry", "calm-otter"),
    "failures": ("failures", "calm-otter"),
    "report": ("report", "calm-otter"),
    "run": ("run", "plan.yaml", "reviews.csv"),
    "row": ("row", "calm-otter", "0:3.1"),
    "purge": ("purge", "calm-otter", "--answers", "--yes"),
    "explain-error": ("explain-error", "BUDGET-REACHED"),
    "completion": ("completion", "fish"),
    "doctor": ("doctor",),
    "setup": ("setup",),
    "serve": ("serve",),
    "dashboard": ("dashboard", "calm-otter"),
    "error": ("status", "no-such-run"),
}


@pytest.fixture(autouse=True)
def _machine(monkeypatch, tmp_path):
    """What these commands tell of the machine is the same everywhere."""
    from apwa_dask.cli import doctor
    from apwa_dask.models.local import ModelFile

    file = ModelFile(Path("/models/m.gguf"), "qwen2.5-coder-1.5b", "embedded model", verified=True)
    found = [
        doctor.Check("python", "ok", "3.13 on Linux"),
        doctor._key("APWA_GOLDEN_KEY", is_needed=True),
        doctor.Check("call", "ok", "m answers: 84 ms, 14 tokens in, 2 out, <$0.0001"),
    ]
    endpoint = SimpleNamespace(base_url="http://127.0.0.1:1/v1", api_key="k", model_name="m", pid=os.getpid())
    ended = SimpleNamespace(wait=lambda _timeout: True)
    monkeypatch.setattr("apwa_dask.models.local.ensure_weights", lambda *_args, **_options: file)
    monkeypatch.setattr(
        "apwa_dask.models.local.local_server", lambda *_args, **_options: nullcontext(endpoint)
    )
    monkeypatch.setattr("apwa_dask.cli.machine._until_signalled", lambda: nullcontext(ended))
    monkeypatch.setattr("apwa_dask.cli.machine.looking.checks", lambda **_options: found)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.yaml").write_text("version: 1\nsources: [reviews]\n")


def test_u23_every_command_has_a_golden_document():
    from apwa_dask.cli import main

    assert set(main.commands) <= {arguments[0] for arguments in COMMANDS.values()}


@pytest.mark.parametrize("name", COMMANDS)
def test_u23_the_json_of_a_command_is_what_it_was(apwa, fake_api, name):
    fake_api.failed_rows = int(name in ("ask-failed-rows", "failures", "retry"))
    done = apwa(*COMMANDS[name], "--json")
    document = json.loads(done.stdout)
    if name == "completion":  # the script itself is click's, and another one in another version
        document["script"] = document["script"].splitlines()[0]
    golden = GOLDEN / f"{name}.json"
    if os.environ.get("APWA_GOLDEN") == "write":
        golden.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    assert document == json.loads(golden.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", COMMANDS)
def test_u23_the_exit_code_in_a_document_is_that_of_the_process(apwa, fake_api, name):
    fake_api.failed_rows = int(name == "ask-failed-rows")
    done = apwa(*COMMANDS[name], "--json")
    document = json.loads(done.stdout)
    if isinstance(document, dict):
        told = document.get("error", document).get("exit_code", 0)
        assert told == done.exit_code


def test_u23_every_command_has_json_and_help():
    from apwa_dask.cli import main

    for name, command in main.commands.items():
        assert "as_json" in {parameter.name for parameter in command.params}, name
        assert command.help, name
