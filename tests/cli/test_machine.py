"""doctor, serve, setup, and the group itself; some with real processes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import dask.config
import pytest

from apwa_dask.cli import doctor
from apwa_dask.cli.doctor import checks
from apwa_dask.models.model import Model

CANARY = "sk-canary-0123456789abcdef"


def states(found) -> dict[str, str]:
    return {check.name: check.state for check in found}


def details(found) -> str:
    return json.dumps([dataclasses.asdict(check) for check in found])


def test_a_healthy_machine_has_no_failure(tmp_path):
    found = checks(store=str(tmp_path))
    assert "fail" not in states(found).values(), details(found)
    assert list(tmp_path.iterdir()) == []


def test_a_key_is_named_and_never_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://user:{CANARY}@127.0.0.1:9/v1?key={CANARY}")
    found = checks(store=str(tmp_path))
    assert states(found)["key"] == "ok"
    assert CANARY not in details(found)
    assert "http://127.0.0.1:9/v1" in details(found)


def test_a_missing_key_is_noted_with_the_variable_looked_at(tmp_path, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    with dask.config.set({"apwa.api-key-env": "MY_KEY"}):
        (key,) = [check for check in checks(store=str(tmp_path)) if check.name == "key"]
    assert key.state == "note"
    assert "MY_KEY" in key.detail


@pytest.mark.parametrize(
    ("endpoint", "model", "state"),
    [
        ("https://llm.example/v1", None, "fail"),
        ("http://10.0.0.7:8000/v1", "m", "fail"),
        (None, "gpt-4.1-mini", "fail"),  # at the OpenAI API
        (None, Model("m", base_url="https://llm.example/v1"), "fail"),
        ("http://127.0.0.1:8000/v1", "m", "note"),
        ("http://[::1]:8000/v1", "m", "note"),
        ("http://localhost:8000/v1", "m", "note"),
        (None, None, "note"),  # the embedded model answers
        (None, "local", "note"),
        (None, Model.local(), "note"),
    ],
)
def test_a_missing_key_is_a_fault_where_the_endpoint_is_on_another_machine(
    monkeypatch, endpoint, model, state
):
    for name in ("OPENAI_API_KEY", "OPENAI_MODEL", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    if endpoint is not None:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint)
    monkeypatch.setattr(doctor, "_reached", lambda url: doctor.Check("endpoint port", "ok", url))
    (key,) = [check for check in doctor._endpoint(model) if check.name == "key"]
    assert key.state == state
    assert key.fix.startswith("export OPENAI_API_KEY=")
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    assert [check.state for check in doctor._endpoint(model) if check.name == "key"] == ["ok"]


def test_a_store_that_cannot_be_written_is_found(tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    assert states(checks(store=str(file / "store")))["store"] == "fail"
    assert states(checks(store="nosuchprotocol://x"))["store"] == "fail"


def test_a_closed_loopback_is_found(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError("not allowed")

    monkeypatch.setattr(socket, "create_server", refuse)
    assert states(checks(store=str(tmp_path)))["loopback"] == "fail"


def test_a_setting_that_nobody_reads_is_found(tmp_path):
    with dask.config.set({"apwa.max-concurency": 3}):
        assert states(checks(store=str(tmp_path)))["settings"] == "fail"


def test_a_missing_package_is_found_with_the_command_that_brings_it(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_PACKAGES", ("dask", "no-such-package-here"))
    (missing,) = [check for check in checks(store=str(tmp_path)) if check.state == "fail"]
    assert missing.fix == "pip install no-such-package-here"


class OtherCluster:
    """A cluster whose workers have other versions."""

    class scheduler:
        address = "tcp://127.0.0.1:1"

    def run_on_scheduler(self, function, names):
        return function(names)

    def run(self, function, names):
        return {"tcp://127.0.0.1:2": {**function(names), "apwa_dask": "0.0.1", "dask": "2025.1.0"}}


def test_a_cluster_of_other_versions_is_found_and_the_worker_named(tmp_path):
    found = {check.name: check for check in checks(store=str(tmp_path), client=OtherCluster())}
    assert found["cluster apwa_dask"].state == "fail"
    assert found["cluster dask"].state == "fail"
    assert "tcp://127.0.0.1:2 has 2025.1.0" in found["cluster dask"].detail


def test_doctor_ends_in_one_when_something_is_in_the_way(apwa, tmp_path):
    assert apwa("doctor", "--store", str(tmp_path)).exit_code == 0
    (tmp_path / "file").write_text("in the way")
    done = apwa("doctor", "--json", "--store", str(tmp_path / "file" / "x"))
    assert done.exit_code == 1
    assert json.loads(done.stdout)["ok"] is False


@dataclasses.dataclass(frozen=True)
class Endpoint:
    base_url: str = "http://127.0.0.1:1234/v1"
    api_key: str = "local-key"
    model_name: str = "qwen2.5-coder-1.5b"
    pid: int = dataclasses.field(default_factory=os.getpid)


def test_serve_prints_what_to_export_and_leaves_at_a_signal(apwa, monkeypatch):
    released = []

    @contextlib.contextmanager
    def local_server(*_args, **_options):
        yield Endpoint()
        released.append(True)

    class Ended:
        def wait(self, _timeout):
            return True

    @contextlib.contextmanager
    def at_once():
        yield Ended()

    monkeypatch.setattr("apwa_dask.models.local.local_server", local_server)
    monkeypatch.setattr("apwa_dask.cli.machine._until_signalled", at_once)
    done = apwa("serve")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "export OPENAI_BASE_URL=http://127.0.0.1:1234/v1",
        "export OPENAI_API_KEY=local-key",
        "export OPENAI_MODEL=qwen2.5-coder-1.5b",
    ]
    assert released == [True]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_waiting_and_the_handlers_are_put_back(number):
    from apwa_dask.cli.machine import _until_signalled

    before = signal.getsignal(number)
    with _until_signalled() as ended:
        os.kill(os.getpid(), number)
        assert ended.wait(60)
    assert signal.getsignal(number) is before


def test_a_server_that_died_is_told(monkeypatch):
    from apwa_dask.cli.machine import _check_alive
    from apwa_dask.errors import LocalModelError

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with pytest.raises(LocalModelError, match="ended by itself"):
        _check_alive(gone.pid)


def test_setup_tells_where_the_weights_are(apwa, monkeypatch, tmp_path):
    from apwa_dask.models.local import ModelFile

    file = ModelFile(tmp_path / "m.gguf", "qwen2.5-coder-1.5b", "embedded model", verified=True)
    monkeypatch.setattr("apwa_dask.models.local.ensure_weights", lambda *_args, **_options: file)
    assert apwa("setup").stdout.strip() == str(tmp_path / "m.gguf")
    assert json.loads(apwa("setup", "--json").stdout)["verified"] is True


@pytest.mark.parametrize(
    "arguments", [("bogus",), ("ask",), ("ask", "q", "f", "--bogus"), ("--bogus",), ("runs", "x")]
)
def test_wrong_usage_ends_in_one_never_in_two(apwa, arguments):
    done = apwa(*arguments)
    assert done.exit_code == 1
    assert "Usage:" in done.stderr


def test_help_costs_nothing(apwa, fake_api):
    assert apwa().exit_code == 0
    assert "ask" in apwa("--help").stdout
    assert apwa("ask", "-h").exit_code == 0
    assert fake_api.calls == []


def test_help_loads_no_heavy_library():
    code = (
        "import sys; from apwa_dask.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'distributed', 'bokeh', 'openai', 'duckdb', 'pyarrow', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_command_is_found_as_a_module_from_anywhere(tmp_path):
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "apwa_dask.cli", "--version"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    assert done.stdout.startswith("apwa, version")


def test_doctor_agrees_with_a_cluster_of_this_environment(tmp_path):
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        found = checks(store=str(tmp_path), client=client)
    cluster_checks = {check.name: check for check in found if check.name.startswith("cluster")}
    assert cluster_checks["cluster"].detail.startswith("1 worker at tcp://127.0.0.1")
    assert {check.state for check in cluster_checks.values()} == {"ok"}
    assert {"cluster apwa_dask", "cluster dask", "cluster pyarrow"} <= set(cluster_checks)


def test_the_command_is_also_found_as_dask_apwa():
    import importlib.metadata

    found = importlib.metadata.entry_points(group="dask_cli", name="apwa")
    if not found:
        pytest.skip("the package runs from a folder: entry points come with its installation")
    done = subprocess.run(
        [sys.executable, "-c", "from dask.cli import run_cli; run_cli()", "apwa", "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Ask a question of your data" in done.stdout


def test_a_cluster_of_the_command_line_gives_nannies_time_to_start_workers_anew(monkeypatch):
    import contextlib
    import types

    import distributed
    from dask.utils import parse_timedelta

    from apwa_dask.cli.options import Place
    from apwa_dask.cli.place import place_of

    made = contextlib.nullcontext(types.SimpleNamespace(dashboard_link=""))
    monkeypatch.setattr(distributed, "LocalCluster", lambda **options: made)
    monkeypatch.setattr(distributed, "Client", lambda cluster: contextlib.nullcontext("a client"))
    with place_of(Place(scheduler=None, workers=2, client=None)) as where:
        assert where == {"client": "a client"}
        assert parse_timedelta(dask.config.get("distributed.deploy.lost-worker-timeout")) >= 300
    assert parse_timedelta(dask.config.get("distributed.deploy.lost-worker-timeout")) < 300
