"""Habits that a linter of the language does not know: library code is quiet, and files are small."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "apwa_dask"

# Programs, not libraries: these speak to a terminal and end their own process.
SPEAKERS = ("cli/", "demo/", "models/local/server_main.py", "testing/server.py")
FORBIDDEN_CALLS = {"print", "input", "exit", "quit", "breakpoint", "eval", "exec"}
FORBIDDEN_ATTRIBUTES = {
    ("logging", "basicConfig"): "configures the user's logging",
    ("logging", "disable"): "configures the user's logging",
    ("os", "_exit"): "ends the user's process",
    ("sys", "exit"): "ends the user's process",
    ("warnings", "filterwarnings"): "changes the user's warnings",
    ("warnings", "simplefilter"): "changes the user's warnings",
}
ALLOWED = {
    ("store/killpoints.py", "os._exit"): "a test asks for this death by name, in an environment variable",
}

LINES_AT_MOST = 500
LONG_FILES: dict[str, str] = {}
"""Files that may be longer, each with the reason."""

REGISTRIES = re.compile(
    r"\b(?:pypi\.org|pythonhosted\.org|conda\.anaconda\.org|registry\.npmjs\.org|crates\.io|proxy\.golang\.org)\b"
)
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b|raise Not" + r"ImplementedError")


def tracked(*suffixes: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout: its files are not listed")
    paths = (ROOT / name for name in listed.stdout.splitlines())
    return [path for path in paths if path.suffix in suffixes and path.is_file()]


def library_files() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith(SPEAKERS):
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def dotted(call: ast.Call) -> tuple[str, str]:
    function = call.func
    if isinstance(function, ast.Name):
        return "", function.id
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        return function.value.id, function.attr
    return "", ""


def offences(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of each call that library code does not make."""
    inside_catch = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.With) and "catch_warnings" in ast.unparse(block.items[0])
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None and "SystemExit" in ast.unparse(node.exc):
            yield node.lineno, "SystemExit"
        if not isinstance(node, ast.Call):
            continue
        owner, name = dotted(node)
        if not owner and name in FORBIDDEN_CALLS:
            yield node.lineno, name
        if (owner, name) in FORBIDDEN_ATTRIBUTES and not (owner == "warnings" and id(node) in inside_catch):
            yield node.lineno, f"{owner}.{name}"
        function = node.func
        if (
            isinstance(function, ast.Attribute)
            and function.attr in {"setLevel", "addHandler"}
            and ast.unparse(function.value).endswith("getLogger()")
        ):
            yield node.lineno, f"root logger {function.attr}"


def test_library_code_does_not_print_ask_end_or_configure():
    found = [
        f"{name}:{line}: {what}"
        for name, tree in library_files()
        for line, what in offences(tree)
        if (name, what) not in ALLOWED
    ]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "print(1)",
        "input()",
        "import sys\nsys.exit(2)",
        "raise SystemExit",
        "import logging\nlogging.basicConfig()",
        "import logging\nlogging.getLogger().setLevel(10)",
        "import warnings\nwarnings.simplefilter('ignore')",
    ],
)
def test_the_check_sees_what_it_is_for(code):
    assert list(offences(ast.parse(code)))


def test_warnings_may_be_filtered_inside_catch_warnings():
    code = "import warnings\nwith warnings.catch_warnings():\n    warnings.simplefilter('ignore')"
    assert list(offences(ast.parse(code))) == []


def test_no_file_names_a_package_registry_host():
    suffixes = (".py", ".md", ".toml", ".yml", ".yaml", ".txt", ".cff", ".ipynb", ".j2", ".json")
    found = [
        str(path.relative_to(ROOT))
        for path in tracked(*suffixes)
        if path != Path(__file__) and REGISTRIES.search(path.read_text(encoding="utf-8", errors="replace"))
    ]
    assert found == []


def test_nothing_is_left_unfinished():
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked(".py", ".toml", ".yml", ".yaml", ".j2")
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert found == []


def test_files_are_short_or_say_why_not():
    long = {
        path.relative_to(ROOT).as_posix()
        for path in tracked(".py")
        if len(path.read_text(encoding="utf-8").splitlines()) > LINES_AT_MOST
    }
    assert long <= set(LONG_FILES)


def test_no_broad_except_passes_silently():
    found = [
        f"{name}:{node.lineno}"
        for name, tree in library_files()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"})
        and all(isinstance(statement, ast.Pass | ast.Continue) for statement in node.body)
    ]
    assert found == []


LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
NAMED_TEST = re.compile(r"`(test_\w+)`")


def pages() -> list[Path]:
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def test_links_of_the_documents_lead_to_files():
    found = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in pages()
        for link in LINK.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ]
    assert found == []


def test_every_test_that_a_document_names_exists():
    known = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))
    }
    named = {name for page in pages() for name in NAMED_TEST.findall(page.read_text(encoding="utf-8"))}
    assert len(named) > 20
    assert named <= known


def test_the_picture_of_the_rooms_has_every_room():
    picture = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("```")[1]
    rooms = {path.parent.name + "/" for path in PACKAGE.glob("*/__init__.py")}
    files = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    missing = {name for name in rooms | files if name not in picture}
    assert missing <= {"demo/"}
