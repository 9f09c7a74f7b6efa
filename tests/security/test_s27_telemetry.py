"""S27: nothing is told to anybody: an import speaks to no one, a run to its endpoint and its store."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import pytest

import apwa_dask as apwa

pytestmark = pytest.mark.slow
PACKAGE = Path(apwa.__file__).parent
PROGRAM = Path(__file__).with_name("contacts.py")
ROWS = 12
TELLS = {
    "sentry_sdk",
    "posthog",
    "segment",
    "analytics",
    "mixpanel",
    "amplitude",
    "opentelemetry",
    "statsd",
    "rudderstack",
}


def contacts(folder: Path, endpoint: str, store: str, api_key: str, /, **storage: Any) -> dict[str, Any]:
    """What the program beside this file saw."""
    texts = pd.DataFrame({"text": [f"row {k}" for k in range(ROWS)]})
    texts.to_parquet(folder / "rows.parquet")
    # no proxy, no telemetry switch and no configuration of this machine has a say
    kept = {name: value for name, value in os.environ.items() if "PROXY" not in name.upper()}
    environment = {
        **kept,
        "PYTHONPATH": str(PACKAGE.parent),
        "OPENAI_API_KEY": api_key,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    done = subprocess.run(
        [sys.executable, str(PROGRAM), endpoint, store, str(folder), json.dumps(storage)],
        capture_output=True, text=True, timeout=200, env=environment, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert said["rows"] == ROWS
    assert said["modules"] > 150
    assert said["said"] == 7
    return said["contacted"]  # type: ignore[no-any-return]


def test_s27_import_and_run_speak_to_the_endpoint_alone(scripted_server, canary_key, tmp_path):
    server = scripted_server()
    seen = contacts(tmp_path, server.base_url, str(tmp_path / "store"), canary_key)
    assert seen == {"run": [urlsplit(server.base_url).netloc]}
    assert server.calls == ROWS


def test_s27_with_a_store_elsewhere_a_run_speaks_to_that_too(
    scripted_server, canary_key, tmp_path, bucket, s3_options
):
    server = scripted_server()
    seen = contacts(tmp_path, server.base_url, f"{bucket}/store", canary_key, **s3_options)
    endpoint, store = (urlsplit(url).netloc for url in (server.base_url, s3_options["endpoint_url"]))
    assert set(seen["run"]) == {endpoint, store}
    assert set(seen) <= {"run", "afterwards"}
    assert set(seen.get("afterwards", ())) <= {store}


def test_s27_the_hook_sees_what_it_is_for():
    program = (
        "import runpy, socket, sys\n"
        f"seen = runpy.run_path({str(PROGRAM)!r}, run_name='seen')\n"
        "sys.addaudithook(seen['hook'])\n"
        "sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "sender.sendto(b'x', ('127.0.0.1', 9)); sender.close()\n"
        "caller = socket.socket(); caller.settimeout(1); caller.connect_ex(('127.0.0.1', 9)); caller.close()\n"
        "socket.getaddrinfo('localhost', 9)\n"
        "print(sorted(seen['hook'].__globals__['contacted']['import']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert ast.literal_eval(done.stdout) == ["127.0.0.1:9", "localhost:9"]


def test_s27_nothing_that_reports_home_is_imported():
    imported = {
        name.split(".")[0]
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in _names(node)
    }
    assert "openai" in imported
    assert imported & TELLS == set()


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
