"""S28: floors are declared, the image's versions are locked by hash, and an audit that cannot look fails."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "docs" / "deployment"
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = DECLARED["project"]
IN_IMAGE = ("dashboard", "fast", "s3")
FLOORS = {
    "dask": "2026.6.0",
    "distributed": "2026.6.0",
    "pyarrow": "14.0.1",
    "jinja2": "3.1.0",
    "aiohttp": "3.11",
}
"""Below these, known holes: dashboards that run scripts (dask), files that run code (pyarrow)."""
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+?)(?: ; (.+?))? \\$")
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}(?: \\)?$")


def required(lines: list[str]) -> Iterator[Requirement]:
    for line in lines:
        requirement = Requirement(line)
        if canonicalize_name(requirement.name) != "apwa-dask":
            yield requirement


def pins(name: str) -> dict[str, str]:
    """Version of each package that a lock names."""
    lines = (LOCKS / name).read_text(encoding="utf-8").splitlines()
    return {found[1]: found[2] for line in lines if (found := PIN.match(line))}


def test_s28_the_floors_of_known_holes_are_declared():
    floors = {
        canonicalize_name(requirement.name): specifier.version
        for requirement in required(PROJECT["dependencies"])
        for specifier in requirement.specifier
        if specifier.operator == ">="
    }
    assert {name for name, least in FLOORS.items() if Version(floors[name]) < Version(least)} == set()


def test_s28_what_is_installed_here_is_not_below_a_floor():
    below = {
        requirement.name: importlib.metadata.version(requirement.name)
        for requirement in required(PROJECT["dependencies"])
        if not requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)
    }
    assert below == {}


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-build.lock"])
def test_s28_a_lock_is_versions_and_hashes_and_nothing_else(name):
    lines = (LOCKS / name).read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not PIN.match(line) and not HASH.match(line)] == []
    bare = [
        line
        for line, after in zip(lines, [*lines[1:], ""], strict=True)
        if PIN.match(line) and not HASH.match(after)
    ]
    assert bare == []
    assert "://" not in "".join(lines), "a lock names no place to fetch from"


def test_s28_the_lock_has_all_that_the_image_needs_in_versions_that_are_allowed():
    locked = pins("requirements.lock")
    lines = [
        *PROJECT["dependencies"],
        *(line for extra in IN_IMAGE for line in PROJECT["optional-dependencies"][extra]),
    ]
    wrong = [
        str(requirement)
        for requirement in required(lines)
        if not requirement.specifier.contains(
            locked.get(canonicalize_name(requirement.name), "0"), prereleases=True
        )
    ]
    assert wrong == [], "make lock"
    building = pins("requirements-build.lock")
    assert {
        canonicalize_name(Requirement(line).name) for line in DECLARED["build-system"]["requires"]
    } <= set(building)


def test_s28_the_audit_reads_both_locks_and_fails_for_what_it_cannot_look_up():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    (recipe,) = re.findall(r"^audit:.*\n\t(.+)$", makefile, re.M)
    assert {"--strict", "--require-hashes", "--disable-pip"} <= set(recipe.split())
    assert {f"docs/deployment/{path.name}" for path in LOCKS.glob("*.lock")} <= set(recipe.split())
