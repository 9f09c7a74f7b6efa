"""What README and documentation print runs as printed; what cannot run says why."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from distributed import Client
from tests_docs_blocks import RUN, SHOWN, blocks_of, run_page

import apwa_dask
from apwa_dask.cli import main
from apwa_dask.testing import ScriptedServer

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
WRITTEN = sorted(
    path for path in DOCS.rglob("*.md") if not {"_build", "notebooks"} & set(path.relative_to(DOCS).parts)
)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *WRITTEN]
IDS = [path.relative_to(ROOT).as_posix() for path in PAGES]
RUNNING = [page for page in PAGES if any(block.is_run for block in blocks_of(page))]


@pytest.mark.parametrize("page", RUNNING, ids=[path.relative_to(ROOT).as_posix() for path in RUNNING])
def test_a_page_runs_as_printed(page, folder):
    names = {"__name__": "__main__"}
    try:
        assert run_page(page, names) > 0
    finally:
        for left in [value for value in names.values() if isinstance(value, Client | ScriptedServer)]:
            left.close()


def test_the_pages_have_blocks_that_run():
    counts = {page: sum(block.is_run for block in blocks_of(page)) for page in PAGES}
    assert sum(counts.values()) > 30
    for name in ("README.md", "docs/tutorial.md", "docs/howto/resume.md", "docs/howto/failures.md"):
        assert counts[ROOT / name] > 0, name


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_block_has_a_language_and_runs_or_says_why_not(page):
    odd = [
        f"{block.line}: {block.language!r}" for block in blocks_of(page) if block.language not in RUN + SHOWN
    ]
    assert odd == [], "name a language; text is what is printed, not typed"
    assert all(len(block.why_not) > 10 for block in blocks_of(page) if block.why_not)
    for block in blocks_of(page):
        if block.language == "python":
            ast.parse(block.code)
        if block.language == "yaml":
            yaml.safe_load(block.code)


def test_a_block_that_fails_names_its_page_and_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nx = 1\nassert x == 2\n```\n")
    with pytest.raises(AssertionError) as caught:
        run_page(page, {})
    assert (str(caught.traceback[-1].path), caught.traceback[-1].lineno + 1) == (str(page), 5)
    page.write_text("```bash\ntrue\nfalse\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md:2"):
        run_page(page, {})


def test_a_marked_block_is_not_run_and_a_setup_is(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: it would end the world -->\n```python\nraise SystemExit\n```\n\n"
        "<!-- setup\nx = 2\n-->\n```python\nassert x == 2\n```\n"
    )
    assert run_page(page, {}) == 1


def test_the_reference_has_every_public_name():
    text = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md"))
    missing = [
        name for name in apwa_dask.__all__ if name != "__version__" and not re.search(rf"\b{name}\b", text)
    ]
    assert missing == []


def test_the_reference_lists_every_verb_of_a_table():
    text = (DOCS / "reference" / "tables.md").read_text(encoding="utf-8")
    looking = {"schema", "columns", "report", "profile"}
    verbs = {name for name in dir(apwa_dask.Table) if not name.startswith("_")} - looking
    assert set(re.findall(r"^   Table\.(\w+)$", text, re.M)) == verbs


def test_the_reference_has_every_command():
    text = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z-]+)` \|", text, re.M)) == set(main.commands)


def test_the_reference_has_every_setting_with_its_default():
    text = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    shown = {
        name: yaml.safe_load(value)
        for name, value in re.findall(r"^\| `([a-z-]+)` \| `([^`]+)` \|", text, re.M)
    }
    assert shown == yaml.safe_load((ROOT / "apwa_dask" / "apwa.yaml").read_text(encoding="utf-8"))["apwa"]


OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def test_every_option_that_the_pages_give_to_a_command_exists():
    known = {"--version", "--help"} | {
        name
        for command in main.commands.values()
        for option in command.params
        for name in (*option.opts, *option.secondary_opts)
    }
    lines = [
        (page, line)
        for page in WRITTEN
        for block in blocks_of(page)
        if block.language == "bash"
        for line in block.code.splitlines()
        if line.lstrip().startswith("apwa ")
    ]
    assert len(lines) > 10
    wrong = [(str(page), name) for page, line in lines for name in OPTION.findall(line) if name not in known]
    assert wrong == []
    assert CliRunner().invoke(main, ["--help"]).exit_code == 0


@pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="the extra `docs` is not installed")
def test_the_documentation_is_built_without_a_warning(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-W",
            "--keep-going",
            "-q",
            "-b",
            "html",
            "-d",
            tmp_path / "trees",
            DOCS,
            tmp_path / "html",
        ],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-5000:]
    assert (tmp_path / "html" / "howto" / "failures.html").exists()
    assert 'id="plan-column"' in (tmp_path / "html" / "errors.html").read_text(encoding="utf-8")
    assert "apwa_dask.Table.map" in (tmp_path / "html" / "reference" / "tables.html").read_text(
        encoding="utf-8"
    )
