"""The server of the embedded model: one per machine and settings, alive as long as somebody uses it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from apwa_dask.errors import LocalModelError
from apwa_dask.models.local import LocalEndpoint, acquire, local_server, release
from apwa_dask.models.local.locks import FileLock, runtime_folder
from apwa_dask.models.local.machine import check_machine, missing_instructions
from apwa_dask.models.local.settings import ServerSettings, usable_cores

pytestmark = pytest.mark.local

Eventually = Callable[[Callable[[], bool]], bool]

_USER = """
import sys
from apwa_dask.models.local import acquire
endpoint = acquire("smollm2-135m", slots=2, n_ctx=512, grace_s=0.2)
print(endpoint.pid, flush=True)
sys.stdin.readline()
"""

_STARTER_DIES = """
import os
from apwa_dask.models.local import acquire, lifecycle
spawn = lifecycle._spawn
def spawn_and_die(*args):
    spawn(*args)
    os.kill(os.getpid(), 9)
lifecycle._spawn = spawn_and_die
acquire("smollm2-135m", slots=2, n_ctx=512, grace_s=0.2)
"""

_PARENT_OF_A_FORK = """
import os, time
from apwa_dask.models.local import acquire, release
endpoint = acquire("smollm2-135m", slots=2, n_ctx=512, grace_s=0.2)
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(endpoint.pid, child, flush=True)
os.kill(os.getpid(), 9)
"""


class User:
    """Another process that uses the server until it is told to leave, or is killed."""

    def __init__(self, script: str = _USER) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def server_pid(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=60)


@pytest.fixture
def users(small_model: str, runtime_dir: Path) -> Iterator[Callable[[], User]]:
    started: list[User] = []

    def start() -> User:
        started.append(User())
        return started[-1]

    yield start
    for user in started:
        user.kill()


def small_server(**settings: float) -> contextlib.AbstractContextManager[LocalEndpoint]:
    return local_server("smollm2-135m", slots=2, n_ctx=512, **{"grace_s": 0.2, **settings})  # type: ignore[arg-type]


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def users_lock_is_free(endpoint: LocalEndpoint) -> bool:
    """What the server asks itself before it leaves."""
    with FileLock(runtime_folder() / endpoint.server / "users.lock") as lock:
        return lock.try_exclusive()


def status_of(url: str, api_key: str | None) -> int:
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@contextlib.contextmanager
def answering(endpoint: LocalEndpoint) -> Iterator[None]:
    """An answer of 450 tokens is under way, its first piece seen."""
    message = {"role": "user", "content": "Count from one to a thousand, in words."}
    body = {"messages": [message], "stream": True, "max_tokens": 450, "ignore_eos": True}
    request = urllib.request.Request(
        f"{endpoint.base_url}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {endpoint.api_key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.readline().startswith(b"data:")
        yield


def test_processes_that_start_together_share_one_server(users: Callable[[], User]) -> None:
    together = [users() for _ in range(3)]
    assert len({user.server_pid() for user in together}) == 1


def test_the_server_is_gone_after_the_last_user_was_killed(
    users: Callable[[], User], eventually: Eventually
) -> None:
    first, second = users(), users()
    pid = first.server_pid()
    assert second.server_pid() == pid
    first.kill()
    assert psutil.Process(pid).is_running()
    third = users()
    assert third.server_pid() == pid
    second.kill()
    third.kill()
    assert eventually(lambda: is_gone(pid))


def test_the_server_stays_while_one_user_lives(users: Callable[[], User], small_model: str) -> None:
    user = users()
    pid = user.server_pid()
    with small_server() as endpoint:
        assert endpoint.pid == pid
        user.kill()
        assert not users_lock_is_free(endpoint)
        assert status_of(f"{endpoint.base_url}/models", endpoint.api_key) == 200


def test_a_process_shares_its_lease_among_its_threads(
    small_model: str, runtime_dir: Path, eventually: Eventually
) -> None:
    first = acquire(small_model, slots=2, n_ctx=512, grace_s=0.2)
    second = acquire(small_model, slots=2, n_ctx=512, grace_s=0.2)
    assert first == second
    release(first)
    assert not users_lock_is_free(first)
    release(second)
    assert eventually(lambda: is_gone(first.pid))
    release(second)  # once too often does no harm


def test_other_settings_are_another_server(small_model: str, runtime_dir: Path) -> None:
    with small_server() as two, local_server(small_model, slots=1, n_ctx=512, grace_s=0.2) as one:
        assert two.pid != one.pid
        assert (two.slots, one.slots) == (2, 1)


def test_only_holders_of_the_key_are_answered(small_model: str, runtime_dir: Path) -> None:
    with small_server() as endpoint:
        url = f"{endpoint.base_url}/models"
        assert [status_of(url, key) for key in (None, "guess", endpoint.api_key)] == [401, 401, 200]


def test_the_key_is_in_no_argument_environment_log_or_repr(
    small_model: str, runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary-of-another-endpoint")
    with small_server() as endpoint:
        server = psutil.Process(endpoint.pid)
        seen = " ".join([*server.cmdline(), *server.environ().values(), repr(endpoint)])
        folder = runtime_dir / endpoint.server
        seen += (folder / "server.log").read_text() + (folder / "settings.json").read_text()
        assert endpoint.api_key not in seen
        assert "canary-of-another-endpoint" not in seen
        assert stat.S_IMODE((folder / "endpoint.json").stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(runtime_dir.stat().st_mode) == 0o700


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(small_model: str, runtime_dir: Path) -> None:
    with small_server() as endpoint:
        assert os.getsid(endpoint.pid) == endpoint.pid != os.getsid(0)


def test_the_server_leaves_the_cores_to_others_while_it_waits(
    small_model: str, runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as in a Dask worker
    with small_server() as endpoint:
        environment = psutil.Process(endpoint.pid).environ()
    assert {name: value for name, value in environment.items() if "OMP_" in name} == {
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "2000",
    }


def test_the_server_listens_on_loopback_only(small_model: str, runtime_dir: Path) -> None:
    with small_server() as endpoint:
        assert [
            c.laddr.ip for c in psutil.Process(endpoint.pid).net_connections() if c.status == "LISTEN"
        ] == ["127.0.0.1"]


def test_a_server_that_was_killed_is_started_anew(
    small_model: str, runtime_dir: Path, eventually: Eventually
) -> None:
    first = acquire(small_model, slots=2, n_ctx=512, grace_s=0.2)
    os.kill(first.pid, signal.SIGKILL)
    assert eventually(lambda: is_gone(first.pid))
    second = acquire(small_model, slots=2, n_ctx=512, grace_s=0.2)
    assert second.pid != first.pid
    assert status_of(f"{second.base_url}/models", second.api_key) == 200
    release(first)
    release(second)
    assert eventually(lambda: is_gone(second.pid))


def test_sigterm_ends_the_server_at_once_though_it_is_answering(
    small_model: str, runtime_dir: Path, eventually: Eventually
) -> None:
    with small_server() as endpoint, answering(endpoint):
        os.kill(endpoint.pid, signal.SIGTERM)
        assert eventually(lambda: is_gone(endpoint.pid))
        assert not (runtime_dir / endpoint.server / "endpoint.json").exists()


def test_a_starter_that_dies_half_way_leaves_one_server_to_the_next(
    users: Callable[[], User], eventually: Eventually
) -> None:
    died = User(_STARTER_DIES)
    assert died.process.wait(timeout=60) == -signal.SIGKILL
    died.process.communicate()
    together = [users(), users()]
    pid, same = (user.server_pid() for user in together)
    assert pid == same
    for user in together:
        user.kill()
    assert eventually(lambda: is_gone(pid))


def test_a_forked_child_is_no_user(small_model: str, runtime_dir: Path, eventually: Eventually) -> None:
    parent = User(_PARENT_OF_A_FORK)
    assert parent.process.stdout is not None
    pid, child = map(int, parent.process.stdout.readline().split())
    try:
        assert parent.process.wait(timeout=60) == -signal.SIGKILL
        assert eventually(lambda: is_gone(pid))
        assert not is_gone(child)
    finally:
        os.kill(child, signal.SIGKILL)
        parent.process.communicate()


def test_a_file_that_does_not_load_is_an_error_with_the_servers_own_words(
    tmp_path: Path, runtime_dir: Path
) -> None:
    pytest.importorskip("xllamacpp", reason="needs the extra `local`")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(LocalModelError) as caught, local_server(path=broken):
        pass
    assert caught.value.code == "LOCAL-START"
    assert "bad GGUF version" in caught.value.why
    assert "OPENAI_BASE_URL" in caught.value.fix


def test_a_processor_without_avx2_is_told_so_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert missing_instructions("flags\t\t: fpu sse avx fma f16c bmi2\n") == ["avx2"]
    assert missing_instructions("flags : avx2 fma f16c bmi2 avx512f\n") == []
    assert missing_instructions("") == []
    monkeypatch.setattr("apwa_dask.models.local.machine._cpuinfo", lambda: "flags : sse2\n")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(LocalModelError, match="cannot run the embedded model") as caught:
        acquire("smollm2-135m")
    assert caught.value.why.endswith("avx2, bmi2, f16c, fma")


def test_a_missing_runtime_is_named_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(LocalModelError) as caught:
        check_machine()
    assert "pip install 'apwa-dask[local]'" in caught.value.fix


def test_a_registry_that_others_can_write_to_is_refused(runtime_dir: Path) -> None:
    runtime_dir.mkdir()
    runtime_dir.chmod(0o777)
    with pytest.raises(LocalModelError, match="not private"):
        runtime_folder()


@pytest.mark.parametrize("bad", [{"slots": 0}, {"n_ctx": 8}, {"threads": -1}, {"grace_s": -1.0}])
def test_settings_that_cannot_work_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(LocalModelError, match="bad settings"):
        ServerSettings(model_path="/x.gguf", model_name="x", label="x", **bad)  # type: ignore[arg-type]


def test_a_containers_cpu_quota_bounds_the_threads(tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text("100000 100000\n")
    assert usable_cores(tmp_path) == 1
    quota.write_text("max 100000\n")
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))
    assert usable_cores(tmp_path / "absent") == len(os.sched_getaffinity(0))


def test_a_lock_outlives_neither_its_process_nor_its_closing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with FileLock(path) as mine, FileLock(path) as other:
        assert mine.try_shared()
        assert other.try_shared()
        assert not other.try_exclusive()
        mine.close()
        assert other.try_exclusive()
