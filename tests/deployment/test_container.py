"""The container file: a pinned base, no rights, no secret, every dependency by its hash."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "deployment" / "Containerfile"
INSTRUCTIONS = {"FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "CMD"}
SECRET = re.compile(r"(?i)key|secret|token|passw|credential")


def instructions() -> list[tuple[str, str]]:
    """Each instruction with its arguments; continued lines are joined."""
    lines = [line for line in FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for name, rest in instructions():
        if name == "FROM":
            found.append([])
        found[-1].append((name, rest))
    return found


def test_it_is_made_of_known_instructions_and_ends_in_a_command():
    assert {name for name, _ in instructions()} <= INSTRUCTIONS
    assert instructions()[0][0] == "FROM"
    assert stages()[-1][-1][0] == "CMD"


def test_every_base_is_pinned_to_a_whole_version():
    for name, rest in instructions():
        if name == "FROM":
            assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+( AS \w+)?", rest), rest


def test_the_image_runs_as_a_user_without_rights_and_holds_the_environment_only():
    final = stages()[-1]
    (user,) = [rest for name, rest in final if name == "USER"]
    assert int(user.partition(":")[0]) >= 10_000
    after = final[[name for name, _ in final].index("USER") + 1 :]
    assert [name for name, _ in after] == ["CMD"]
    assert [rest for name, rest in final if name == "COPY"] == ["--from=build /opt/apwa /opt/apwa"]


def test_no_secret_is_in_it_and_nothing_is_fetched_without_a_hash():
    text = " ".join(f"{name} {rest}" for name, rest in instructions())
    assert not any(SECRET.search(rest) for name, rest in instructions() if name in ("ENV", "COPY"))
    assert "://" not in text
    parts = [part for name, rest in instructions() if name == "RUN" for part in rest.split("&&")]
    installs = [part for part in parts if re.search(r"\bpip (install|wheel)\b", part)]
    assert len(installs) == 4
    assert all("--require-hashes" in line or "--no-deps" in line for line in installs)
    assert all("--only-binary" in line for line in installs if "--require-hashes" in line)


def test_what_it_copies_exists():
    copied = [
        part
        for name, rest in instructions()
        if name == "COPY" and "--from" not in rest
        for part in rest.split()[:-1]
    ]
    assert len(copied) > 4
    assert [path for path in copied if not (ROOT / path).exists()] == []


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_hadolint_finds_nothing():
    done = subprocess.run(["hadolint", str(FILE)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
