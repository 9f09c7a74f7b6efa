"""The manifests: valid against the operator's definitions, closed where they can be, and their commands start."""

from __future__ import annotations

import contextlib
import json
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from distributed import Client, Security

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "deployment" / "kubernetes"
SCHEMA = json.loads(Path(__file__).with_name("operator_schema.json").read_text(encoding="utf-8"))
FILES = {
    path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.yaml"))
}
OF_THE_OPERATOR = {
    name: data for name, data in FILES.items() if data["apiVersion"].startswith("kubernetes.dask.org")
}


def problems(data: dict[str, Any]) -> list[str]:
    rules = {"$ref": f"#/$defs/{data['kind']}", "$defs": SCHEMA["$defs"]}
    found = jsonschema.Draft202012Validator(rules).iter_errors(data)
    return [f"{error.json_path}: {error.message}" for error in found]


def pods() -> dict[str, dict[str, Any]]:
    cluster = FILES["cluster.yaml"]["spec"]
    return {
        "scheduler": cluster["scheduler"]["spec"],
        "worker": cluster["worker"]["spec"],
        "spot worker": FILES["spot-workers.yaml"]["spec"]["worker"]["spec"],
    }


def test_the_schema_finds_what_is_misspelt_or_missing():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    data = json.loads(json.dumps(FILES["cluster.yaml"]))
    data["spec"]["worker"]["spec"]["containers"][0]["imagePullPolic"] = "Always"
    del data["spec"]["scheduler"]["service"]
    assert len(problems(data)) == 2


@pytest.mark.parametrize("name", OF_THE_OPERATOR)
def test_a_manifest_fits_the_operators_definition(name):
    assert problems(FILES[name]) == []


def test_every_kind_is_there_and_they_name_one_cluster():
    kinds = {data["kind"] for data in FILES.values()}
    assert kinds == {"DaskCluster", "DaskAutoscaler", "DaskWorkerGroup", "NetworkPolicy"}
    assert FILES["autoscaler.yaml"]["spec"]["cluster"] == FILES["cluster.yaml"]["metadata"]["name"]
    assert FILES["spot-workers.yaml"]["spec"]["cluster"] == FILES["cluster.yaml"]["metadata"]["name"]


@pytest.mark.parametrize("name", ["scheduler", "worker", "spot worker"])
def test_a_pod_has_no_rights_and_no_secret_in_its_text(name):
    pod = pods()[name]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert ":" in container["image"]
    assert not container["image"].endswith(":latest")
    secret = [entry for entry in container["env"] if "KEY" in entry["name"]]
    assert all(set(entry) == {"name", "valueFrom"} for entry in secret)
    assert len(secret) == (0 if name == "scheduler" else 1), "only workers make calls"
    assert all(volume["secret"]["defaultMode"] == 0o440 for volume in pod["volumes"])


def test_spot_workers_are_the_others_but_for_where_they_run():
    spot = {
        key: value
        for key, value in pods()["spot worker"].items()
        if key not in ("nodeSelector", "tolerations")
    }
    assert spot == pods()["worker"]


def test_the_network_policy_is_for_the_pods_of_the_cluster():
    spec = FILES["network.yaml"]["spec"]
    assert spec["podSelector"]["matchLabels"] == {"dask.org/cluster-name": "apwa"}
    assert all(rule["from"] for rule in spec["ingress"]), "an empty list would let in everybody"
    (operator,) = [rule for rule in spec["ingress"] if "namespaceSelector" in rule["from"][0]]
    assert [port["port"] for port in operator["ports"]] == [8787]


@pytest.mark.slow
def test_the_commands_of_the_pods_make_a_cluster_that_the_operator_can_ask(page, processes, tmp_path):
    """As processes, with the page's certificates where the pods have theirs."""
    shown = page("tls.md")
    subprocess.run(
        ["bash", "-euc", shown.blocks("bash")[0]], cwd=tmp_path, check=True, capture_output=True, timeout=60
    )
    dashboard = page("tls.md").port

    def command(pod: str) -> list[str]:
        given = [f"{argument}" for argument in pods()[pod]["containers"][0]["args"]]
        places = {
            "/etc/apwa-tls": str(tmp_path),
            "apwa-scheduler:8786": f"127.0.0.1:{shown.port}",
            "$(DASK_WORKER_NAME)": "w1",
            ":8787": f"127.0.0.1:{dashboard}",
        }
        for place, here in places.items():
            given = [argument.replace(place, here) for argument in given]
        given = [str(shown.port) if argument == "8786" else argument for argument in given]
        assert given[0] == "dask"
        return ["-m", *given, "--host", "127.0.0.1"]

    env = {entry["name"]: entry["value"] for entry in pods()["scheduler"]["containers"][0]["env"]}
    security = Security(
        tls_ca_file=str(tmp_path / "ca.pem"), tls_client_cert=str(tmp_path / "client.pem"),
        tls_client_key=str(tmp_path / "client-key.pem"), require_encryption=True,
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        stack.enter_context(processes.Child(command("scheduler"), tmp_path / "scheduler.log", env, tmp_path))
        stack.enter_context(processes.Child(command("worker"), tmp_path / "worker.log", None, tmp_path))
        with Client(shown.address, security=security, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)
            (worker,) = client.scheduler_info(n_workers=-1)["workers"].values()
        root = f"http://127.0.0.1:{dashboard}"
        with urllib.request.urlopen(f"{root}/health", timeout=20) as answer:
            assert answer.read() == b"ok"
        with urllib.request.urlopen(f"{root}/api/v1/adaptive_target", timeout=20) as answer:
            assert json.load(answer) == {"workers": 0}
    assert worker["name"] == "w1"
    assert worker["nthreads"] == 4
