"""Each promise of docs/guarantees.md names tests that hold it, and they exist where it says."""

from __future__ import annotations

import ast
import re
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guarantees.md").read_text()
SECTIONS = {part.splitlines()[0]: part for part in re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:]}
NAMED = sorted(set(re.findall(r"`(test_[\w*]+)`", PAGE)))
LINKED = sorted(set(re.findall(r"\]\(\.\./(tests/[\w./]+)\)", PAGE)))


@cache
def names_of(path: Path) -> frozenset[str]:
    """Names of the test functions of a file, or of all files of a folder."""
    if path.is_dir():
        return frozenset().union(*(names_of(file) for file in path.rglob("test_*.py")))
    nodes = ast.walk(ast.parse(path.read_text()))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return frozenset(node.name for node in nodes if isinstance(node, kinds) and node.name.startswith("test_"))


@pytest.mark.parametrize("name", NAMED)
def test_a_named_test_exists_in_a_file_that_the_page_links(name: str) -> None:
    assert any(fnmatch(known, name) for link in LINKED for known in names_of(ROOT / link)), name


@pytest.mark.parametrize("link", LINKED)
def test_a_linked_file_holds_tests(link: str) -> None:
    assert names_of(ROOT / link)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_says_what_holds_it(section: str) -> None:
    assert re.search(r"`test_[\w*]+`|\]\(\.\./tests/", SECTIONS[section]), f"{section!r} names no test"
