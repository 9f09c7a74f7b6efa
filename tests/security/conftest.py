"""A key to look for, a model that uses it, and an S3 server of its own process."""

from __future__ import annotations

import importlib.util
import os
import secrets
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any, Protocol

import pytest

import apwa_dask as apwa
from apwa_dask.testing import ScriptedServer


class ModelAt(Protocol):
    def __call__(self, server: ScriptedServer, **fields: Any) -> apwa.Model: ...


@pytest.fixture
def model_at(canary_key: str) -> ModelAt:
    """The model at a scripted server; its key is the canary, in the environment only."""

    def make(server: ScriptedServer, **fields: Any) -> apwa.Model:
        given = {"api_key_env": "APWA_TEST_KEY", **fields}
        return apwa.Model("test-model", base_url=server.base_url, **given)

    return make


@pytest.fixture(scope="module")
def s3_options() -> Iterator[dict[str, Any]]:
    """Storage options for a fresh S3 server; the credentials are a canary."""
    missing = [name for name in ("moto", "s3fs", "flask") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "AWS_EC2_METADATA_DISABLED": "true"},
    )
    endpoint = f"http://127.0.0.1:{port}"
    ticker = threading.Event()
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, "the S3 server did not start"
                ticker.wait(0.1)
        yield {
            "key": f"AKIACANARY{secrets.token_hex(8)}",
            "secret": f"secret-CANARY-{secrets.token_hex(16)}",
            "endpoint_url": endpoint,
            "client_kwargs": {"region_name": "eu-west-1"},
        }
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture
def bucket(s3_options: dict[str, Any]) -> str:
    """A fresh bucket's URL."""
    import s3fs

    name = f"bucket-{secrets.token_hex(4)}"
    s3fs.S3FileSystem(**s3_options).mkdir(name)
    return f"s3://{name}"
