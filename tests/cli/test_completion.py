"""``apwa completion``: the script works in a real bash; zsh and fish take theirs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from apwa_dask.cli import main

BIN = Path(sys.executable).parent
ASK = """
set -euo pipefail
eval "$(apwa completion bash)"
COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); COMPREPLY=()
{function} apwa "${{COMP_WORDS[$COMP_CWORD]}}" ""
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def completed(tmp_path):
    if shutil.which("bash") is None or not (BIN / "apwa").exists():
        pytest.skip("needs bash, and the package installed")

    def ask(words: str) -> list[str]:
        done = subprocess.run(
            ["bash", "--norc", "-c", ASK.format(words=words, function="_apwa_completion")],
            capture_output=True, text=True, timeout=60, cwd=tmp_path,
            env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return ask


def test_bash_completes_commands_options_and_values(completed):
    assert set(completed("apwa ''")) == set(main.commands)
    assert completed("apwa res") == ["resume"]
    assert set(completed("apwa run --on-err")) == {"--on-error"}
    assert set(completed("apwa run --on-error ''")) == {"keep", "drop", "raise"}
    assert set(completed("apwa completion ''")) == {"bash", "zsh", "fish"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_names_the_command_and_is_read_by_its_shell(apwa, shell, tmp_path):
    done = apwa("completion", shell)
    assert done.exit_code == 0
    assert f"_APWA_COMPLETE={shell}_complete" in done.stdout
    if shutil.which(shell):
        script = tmp_path / "script"
        script.write_text(done.stdout)
        subprocess.run([shell, "-n", str(script)], check=True, timeout=120)


def test_another_shell_is_wrong_usage(apwa):
    done = apwa("completion", "tcsh")
    assert done.exit_code == 1
    assert "bash" in done.stderr
