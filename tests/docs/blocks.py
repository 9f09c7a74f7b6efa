"""The code blocks of a page, in its order, and how each is run: as a reader would, against the scripted server."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FENCE = re.compile(
    r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>[\w{}-]*)[^\n]*\n(?P<code>.*?)^ *(?P=ticks) *$", re.M | re.S
)
NOT_RUN = re.compile(r"<!-- not run: (?P<why>[^>]+?) -->\s*\Z")
PRINTED = re.compile(r"<!-- printed -->\s*\Z")
SETUP = re.compile(r"<!-- setup\n(?P<code>.*?)-->\s*\Z", re.S)

RUN = ("python", "bash", "yaml")
SHOWN = ("text", "json", "toml")
"""What is printed, not typed."""

BASH_TIMEOUT_S = 240


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block.

    Parameters
    ----------
    line : int
        Of its first line of code, counted from 1.
    why_not : str
        Why it is not run, as the marker before it says: ``<!-- not run: ... -->``.
    printed : bool
        It is what the block before prints, word for word: ``<!-- printed -->``.
    setup : str
        Python that runs before it and that readers do not see: ``<!-- setup ... -->``.
    """

    page: Path
    line: int
    language: str
    code: str
    why_not: str = ""
    setup: str = ""
    printed: bool = False

    @property
    def is_run(self) -> bool:
        return self.language in RUN and not self.why_not


def blocks_of(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page; directives of the documentation (``{toctree}``) are none."""
    text = page.read_text(encoding="utf-8")
    end = 0
    for found in FENCE.finditer(text):
        before, end = text[end : found.start()], found.end()
        if found["language"].startswith("{"):
            continue
        reason, setup = NOT_RUN.search(before), SETUP.search(before)
        yield Block(
            page,
            text.count("\n", 0, found.start("code")) + 1,
            found["language"],
            found["code"],
            reason["why"] if reason else "",
            setup["code"] if setup else "",
            PRINTED.search(before) is not None,
        )


def run_python(code: str, block: Block, names: dict[str, Any]) -> str:
    """Run code so that a traceback names the line of the page; returns what it prints."""
    padded = "\n" * (block.line - 1) + code
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(padded, str(block.page), "exec"), names)
    return said.getvalue()


def run_bash(block: Block, environment: Mapping[str, str]) -> None:
    """Run a shell block to its end; the first command that fails ends it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.code],
        env={**environment, "PATH": path},
        capture_output=True,
        text=True,
        timeout=BASH_TIMEOUT_S,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{block.page}:{block.line}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


def run_page(page: Path, names: dict[str, Any]) -> int:
    """Run the blocks of a page in order, in one namespace; returns how many were run."""
    count, said = 0, ""
    for block in blocks_of(page):
        if block.printed:
            printed = "\n".join(line.rstrip() for line in said.rstrip().splitlines())
            assert printed == block.code.rstrip(), f"{page}:{block.line} prints otherwise:\n{printed}"
        if not block.is_run:
            continue
        count += 1
        if block.setup:
            run_python(block.setup, block, names)
        if block.language == "python":
            said = run_python(block.code, block, names)
        elif block.language == "bash":
            run_bash(block, os.environ)
        else:
            yaml.safe_load(block.code)
    return count
