"""S18: a cluster with TLS, by the commands that `docs/deployment/tls.md` prints, as real processes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from distributed import Client, Security

from apwa_dask.testing import grep_canary

pytestmark = pytest.mark.slow
ROWS = 24


@pytest.fixture(scope="module")
def tls(page, folder, processes):
    """The page's certificates, scheduler and worker."""
    shown = page("tls.md")
    made = shown.blocks("bash")[0]
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", made], cwd=folder, check=True, capture_output=True, timeout=60
    )
    env = {"DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "warning"}
    (scheduler_command,) = shown.commands("dask scheduler")
    (worker_command,) = shown.commands("dask worker")
    with contextlib.ExitStack() as stack:

        def start(command: list[str], log: str) -> Any:
            assert command[0] == "dask"
            return stack.enter_context(processes.Child(["-m", *command], folder / log, env, folder))

        start(scheduler_command, "scheduler.log")
        start(worker_command, "worker.log")
        security = Security(
            tls_ca_file=str(folder / "ca.pem"),
            tls_client_cert=str(folder / "client.pem"),
            tls_client_key=str(folder / "client-key.pem"),
            require_encryption=True,
        )
        with Client(shown.address, security=security, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)
            yield SimpleNamespace(page=shown, folder=folder, client=client, start=start)


@pytest.fixture
def user(tls, scripted_server, processes, monkeypatch):
    """Somebody in the folder of the page, with an endpoint, its key, and a store."""
    server = scripted_server()
    monkeypatch.chdir(tls.folder)
    settings = {
        "OPENAI_BASE_URL": server.base_url,
        "OPENAI_API_KEY": processes.KEY,
        "APWA_STORE": str(tls.folder / "store"),
        "DASK_APWA__PROGRESS": "silent",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return server


def test_s18_a_run_goes_through_tls_as_the_page_prints_it(tls, user, processes):
    said = io.StringIO()
    (code,) = tls.page.blocks("python")
    with contextlib.redirect_stdout(said):
        exec(compile(tls.page.here(code), str(tls.page.path), "exec"), {"__name__": "__main__"})

    assert said.getvalue() == f"{ROWS} rows\n"
    assert user.calls == ROWS
    addresses = [*tls.client.scheduler_info(n_workers=-1)["workers"], tls.client.scheduler.address]
    assert [address for address in addresses if not address.startswith("tls://")] == []
    assert grep_canary([tls.folder], processes.KEY) == []


def test_s18_commands_use_tls_by_the_configuration_that_the_page_prints(tls, user):
    script = tls.page.here(tls.page.blocks("bash")[-1]).replace("apwa doctor", "apwa doctor --json")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["cluster"]["detail"] == f"1 worker at {tls.page.address}"
    assert {check["state"] for name, check in checks.items() if name.startswith("cluster")} == {"ok"}
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("protocol", ["tcp", "tls"])
def test_s18_a_plain_client_is_refused(tls, protocol):
    """With neither certificate nor authority: in clear, and as TLS that shows nothing."""
    address = tls.page.address.replace("tls", protocol)
    before = tls.client.scheduler_info(n_workers=-1)["workers"].keys()
    with pytest.raises((OSError, TypeError)):
        Client(address, timeout=3, set_as_default=False)
    assert tls.client.scheduler_info(n_workers=-1)["workers"].keys() == before
    assert tls.client.submit(sum, [1, 2]).result(timeout=30) == 3


def test_s18_a_client_of_another_authority_is_refused(tls, tmp_path, processes):
    strangers = trustme.CA()
    own = strangers.issue_cert("scheduler.example")
    (tmp_path / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in own.cert_chain_pems))
    own.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    forged = Security(
        tls_ca_file=str(tls.folder / "ca.pem"),
        tls_client_cert=str(tmp_path / "cert.pem"),
        tls_client_key=str(tmp_path / "key.pem"),
    )
    with pytest.raises(OSError):  # noqa: PT011 - a reset, an alert or a timeout: whichever comes first
        Client(tls.page.address, security=forged, timeout=3, set_as_default=False)
    processes.until(
        lambda: "CERTIFICATE_VERIFY_FAILED" in (tls.folder / "scheduler.log").read_text(), "the reason"
    )


def test_s18_a_plain_worker_gets_no_work(tls, processes):
    address = tls.page.address.replace("tls", "tcp")
    command = ["dask", "worker", address, "--no-nanny", "--no-dashboard", "--death-timeout", "3"]
    stranger = tls.start(command, "stranger.log")
    assert stranger.ended(60) != 0 or "Timed out" in stranger.said or "timed out" in stranger.said
    assert len(tls.client.scheduler_info(n_workers=-1)["workers"]) == 1
