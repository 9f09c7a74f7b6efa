"""S6: under an audit hook in its own process, no plan, expression or built-in tool opens, runs or loads anything."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import apwa_dask

RUNS_TEXT = {"eval", "exec", "compile", "__import__", "execfile", "breakpoint"}
RUNS_TEXT_OF = {("os", "system"), ("os", "popen"), ("pd", "eval"), ("re", "Scanner")}


@pytest.fixture(scope="module")
def audited() -> dict[str, list[str]]:
    """What the program beside this file saw."""
    program = Path(__file__).with_name("audited.py")
    done = subprocess.run(
        [sys.executable, "-c", f"import runpy; runpy.run_path({str(program)!r}, run_name='__main__')"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    said: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return said


def test_s06_no_input_output_process_or_new_code_comes_of_any_hostile_text(audited) -> None:
    assert audited["texts"] > 350
    assert audited["events"] == []


def test_s06_every_hostile_text_is_refused_wherever_it_stands(audited) -> None:
    # A SELECT over what the row holds, or over nothing, is what the SQL tool is for.
    lawful = {"(WITH t AS (SELECT 1) SELECT * FROM t)"}
    assert [place for place in audited["taken"] if place.partition(": ")[2] not in lawful] == []


def test_s06_the_hook_sees_what_it_is_for() -> None:
    program = (
        "import sys, runpy\n"
        f"seen = runpy.run_path({str(Path(__file__).with_name('audited.py'))!r}, run_name='seen')\n"
        "sys.addaudithook(seen['hook']); seen['hook'].__globals__['watching'] = True\n"
        "open('/dev/null').close(); compile('1', '', 'eval'); __import__('wave')\n"
        "seen['hook'].__globals__['watching'] = False\n"
        "print(len(seen['events']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert int(done.stdout) >= 3


def _calls_that_run_text(tree: ast.AST) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id in RUNS_TEXT:
            found.append((node.lineno, called.id))
        owner = called.value if isinstance(called, ast.Attribute) else None
        if isinstance(owner, ast.Name) and (owner.id, called.attr) in RUNS_TEXT_OF:
            found.append((node.lineno, called.attr))
        if isinstance(called, ast.Attribute) and called.attr == "query" and node.args:
            found.append((node.lineno, "query"))
        if any(keyword.arg == "shell" for keyword in node.keywords):
            found.append((node.lineno, "shell="))
    return found


def test_s06_nothing_in_the_package_runs_a_text_as_code() -> None:
    assert _calls_that_run_text(ast.parse("eval('1'); os.system('x'); frame.query('a'); run(x, shell=True)"))
    package = Path(apwa_dask.__file__).parent
    files = list(package.rglob("*.py"))
    found = {
        str(path.relative_to(package)): calls
        for path in files
        if (calls := _calls_that_run_text(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert len(files) > 200
    assert found == {}
