"""``import apwa_dask`` is quick and light, public names are where they say, and rooms import one way."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import apwa_dask

ROOT = Path(__file__).parents[1]
HEAVY = ("bokeh", "dask", "distributed", "duckdb", "llama_cpp", "openai", "pandas", "pyarrow", "xllamacpp")
IMPORT_CPU_S = 1.0
LOOK = """
import json, sys, time
before = set(sys.modules)
began_s = time.process_time()
import {module}
cpu_s = time.process_time() - began_s
print(json.dumps([cpu_s, sorted({{name.split(".")[0] for name in set(sys.modules) - before}})]))
"""


def imported(module: str) -> tuple[float, set[str]]:
    """CPU seconds that importing a module takes in a new process, and the top names it brings."""
    run = subprocess.run(
        [sys.executable, "-c", LOOK.format(module=module)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    cpu_s, names = json.loads(run.stdout)
    return float(cpu_s), set(names)


def test_importing_the_package_is_quick_and_brings_nothing_heavy():
    cpu_s, names = imported("apwa_dask")
    assert names & set(HEAVY) == set()
    assert cpu_s < IMPORT_CPU_S


def test_the_public_face_starts_no_scheduler_dashboard_client_library_or_model_runtime():
    _, names = imported("apwa_dask.api")
    assert names & {"bokeh", "distributed", "openai", "xllamacpp"} == set()


def test_the_command_line_starts_without_dataframes():
    _, names = imported("apwa_dask.cli")
    assert names & (set(HEAVY) - {"dask"}) == set()  # dask for its configuration only


@pytest.mark.parametrize("name", sorted(set(apwa_dask.__all__)))
def test_each_public_name_can_be_had(name):
    assert getattr(apwa_dask, name) is not None
    assert name in dir(apwa_dask)


def test_type_checkers_see_the_same_public_names_as_users():
    tree = ast.parse(Path(apwa_dask.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: node.module.removeprefix("apwa_dask.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == apwa_dask._HOME


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        apwa_dask.no_such_name  # noqa: B018


def test_every_module_can_be_imported_first():
    """No module works only because another was imported before it."""
    modules = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "apwa_dask").rglob("*.py")
        if path.name != "__main__.py" and "xllamacpp" not in path.read_text(encoding="utf-8")
    )
    rooms = sorted({".".join(name.split(".")[:2]) for name in modules if name.count(".") > 1})
    broken = []
    for room in rooms:
        inside = [name for name in modules if name == room or name.startswith(room + ".")]
        run = subprocess.run(
            [
                sys.executable,
                "-c",
                f"import importlib; [importlib.import_module(n) for n in {inside[::-1]!r}]",
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if run.returncode != 0:
            broken.append((room, run.stderr.splitlines()[-1]))
    assert broken == []


def test_the_rooms_import_one_way():
    """The contracts are in pyproject.toml, under ``tool.importlinter``."""
    if importlib.util.find_spec("importlinter") is None:
        pytest.skip("needs import-linter (extra test)")
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert "0 broken" in run.stdout
