"""Golden documents: what scripts read with ``--json``; APWA_GOLDEN=write renews them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
COMMANDS = {
    "ask": ("ask", "Which are complaints?", "reviews.csv"),
    "ask-failed-rows": ("ask", "Which are complaints?", "reviews.csv", "--max-failed", "0"),
    "plan": ("plan", "Which are complaints?", "reviews.csv"),
    "explain": ("explain", "Which are complaints?", "reviews.csv"),
    "estimate": ("estimate", "Which are complaints?", "reviews.csv"),
    "preview": ("preview", "Which are complaints?", "reviews.csv", "-n", "2"),
    "profile": ("profile", "reviews.csv"),
    "runs": ("runs",),
    "status": ("status", "calm-otter"),
    "resume": ("resume", "calm-otter"),
    "retry": ("retry", "calm-otter"),
    "failures": ("failures", "calm-otter"),
    "report": ("report", "calm-otter"),
    "error": ("status", "no-such-run"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_json_of_a_command_is_what_it_was(apwa, fake_api, name):
    fake_api.failed_rows = int(name in ("ask-failed-rows", "failures", "retry"))
    done = apwa(*COMMANDS[name], "--json")
    document = json.loads(done.stdout)
    golden = GOLDEN / f"{name}.json"
    if os.environ.get("APWA_GOLDEN") == "write":
        golden.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    assert document == json.loads(golden.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_exit_code_in_a_document_is_that_of_the_process(apwa, fake_api, name):
    fake_api.failed_rows = int(name == "ask-failed-rows")
    done = apwa(*COMMANDS[name], "--json")
    document = json.loads(done.stdout)
    if isinstance(document, dict):
        told = document.get("error", document).get("exit_code", 0)
        assert told == done.exit_code


def test_every_command_has_json_and_help():
    from apwa_dask.cli import main

    for name, command in main.commands.items():
        assert "as_json" in {parameter.name for parameter in command.params}, name
        assert command.help, name
