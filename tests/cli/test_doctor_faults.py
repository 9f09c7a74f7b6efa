"""U24: what is wrong with a machine is found and said with what to do: as a process, each fault put in on purpose."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

import apwa_dask
from apwa_dask.cli.doctor import checks
from apwa_dask.testing import Fault, Script, ScriptedServer

KEY = "sk-CANARY-doctor-0123456789"


def doctor(tmp_path: Path, *arguments: str, **environment: str) -> tuple[int, dict[str, dict[str, str]], str]:
    """Exit code, checks by name, and all that was said."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "APWA_"))
    }
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        inherited.pop(name, None)
    root = str(Path(apwa_dask.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "apwa_dask.cli", "doctor", "--json", *arguments],
        env={**inherited, "PYTHONPATH": root, "APWA_STORE": str(tmp_path / "store"), **environment},
        capture_output=True, text=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return (
        done.returncode,
        {check["name"]: check for check in json.loads(done.stdout)["checks"]},
        done.stdout + done.stderr,
    )


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_u24_an_endpoint_that_is_there_and_a_key_that_is_set_are_found(tmp_path):
    with ScriptedServer() as server:
        code, found, said = doctor(tmp_path, OPENAI_BASE_URL=server.base_url, OPENAI_API_KEY=KEY)
        assert server.calls == 0
    assert code == 0, said
    assert found["endpoint port"]["state"] == found["key"]["state"] == found["store"]["state"] == "ok"
    assert KEY not in said


def test_u24_one_call_is_made_where_a_model_is_named_and_what_it_cost_is_told(tmp_path):
    endpoint = {"OPENAI_API_KEY": KEY, "OPENAI_MODEL": "m"}
    with ScriptedServer() as server:
        code, found, said = doctor(tmp_path, OPENAI_BASE_URL=server.base_url, **endpoint)
        assert server.calls == 1
        assert (code, found["call"]["state"]) == (0, "ok"), said
        assert "tokens in" in found["call"]["detail"]
        _, found, _ = doctor(tmp_path, "--no-call", OPENAI_BASE_URL=server.base_url, **endpoint)
        assert server.calls == 1
        assert "call" not in found
    assert KEY not in said


def test_u24_a_key_that_the_endpoint_refuses_is_found_with_one_call(tmp_path):
    with ScriptedServer(Script(faults=(Fault("status", status=401),))) as server:
        code, found, said = doctor(
            tmp_path, OPENAI_BASE_URL=server.base_url, OPENAI_API_KEY=KEY, OPENAI_MODEL="m"
        )
        assert server.calls == 1
    assert code == 1
    assert found["call"]["state"] == "fail"
    assert "OPENAI_API_KEY" in found["call"]["detail"] + found["call"]["fix"]
    assert KEY not in said


def test_u24_an_endpoint_in_trouble_is_asked_once(tmp_path):
    with ScriptedServer(Script(faults=(Fault("status", status=503),))) as server:
        code, found, _ = doctor(tmp_path, "--model", "m", OPENAI_BASE_URL=server.base_url)
        assert server.calls == 1
    assert code == 1
    assert found["call"]["state"] == "fail"


def test_u24_without_a_model_no_call_is_made_and_it_is_said_how_to(tmp_path):
    with ScriptedServer() as server:
        code, found, _ = doctor(tmp_path, OPENAI_BASE_URL=server.base_url)
        assert server.calls == 0
    assert code == 0
    assert found["call"]["state"] == "note"
    assert "OPENAI_MODEL" in found["call"]["fix"]


def test_u24_a_missing_key_is_found(tmp_path):
    _, found, _ = doctor(tmp_path)
    assert found["key"]["state"] == "note"
    assert "OPENAI_API_KEY is not set" in found["key"]["detail"]
    assert found["key"]["fix"].startswith("export OPENAI_API_KEY=")


def test_u24_a_closed_port_is_found(tmp_path):
    address = f"http://user:{KEY}@127.0.0.1:{closed_port()}/v1"
    code, found, said = doctor(tmp_path, OPENAI_BASE_URL=address, OPENAI_API_KEY=KEY)
    assert code == 1
    assert found["endpoint port"]["state"] == "fail"
    assert "nothing answers at http://127.0.0.1:" in found["endpoint port"]["detail"]
    assert "OPENAI_BASE_URL" in found["endpoint port"]["fix"]
    assert KEY not in said


def test_u24_a_store_that_cannot_be_written_is_found(tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, found, _ = doctor(tmp_path, APWA_STORE=str(tmp_path / "file" / "store"))
    assert code == 1
    assert found["store"]["state"] == "fail"
    assert "--store" in found["store"]["fix"]


@pytest.mark.slow
def test_u24_another_version_on_a_real_worker_is_found(tmp_path):
    def pretend() -> None:
        import importlib.metadata

        real = importlib.metadata.version
        importlib.metadata.version = lambda name: "0.0.1" if name == "apwa_dask" else real(name)

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.run(pretend)
        found = {check.name: check for check in checks(store=str(tmp_path), client=client)}
    assert found["cluster apwa_dask"].state == "fail"
    assert "has 0.0.1" in found["cluster apwa_dask"].detail
    assert "same version" in found["cluster apwa_dask"].fix
    assert found["cluster dask"].state == "ok"
