"""What is declared is what is imported, what is shipped is whole, and environment.yml says the same."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "apwa_dask"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]

IN_ENVIRONMENT = ("local", "fast", "dashboard", "s3", "notebook", "test", "dev")
ONLY_CONDA = {"python", "git", "make", "pip"}
CONDA_NAMES = {"python-duckdb": "duckdb"}

DISTRIBUTION_OF = {"charset_normalizer": "charset-normalizer", "yaml": "pyyaml"}
OPTIONAL_IMPORTS = {
    "IPython": "only looked at where a notebook has imported it already",
    "bokeh": "extra dashboard",
    "uvloop": "extra fast",
    "xllamacpp": "extra local",
    "pytest": "extra test, for apwa_dask.testing.fixtures",
}


def requirements(lines: list[str]) -> Iterator[Requirement]:
    for line in lines:
        requirement = Requirement(line)
        if canonicalize_name(requirement.name) != "apwa-dask":
            yield requirement


def bounds(lines: list[str]) -> dict[str, str]:
    """Lower bound of each distribution by its name."""
    found = {}
    for requirement in requirements(lines):
        name = canonicalize_name(requirement.name)
        found[str(CONDA_NAMES.get(name, name))] = str(requirement.specifier)
    return found


def third_party_imports(folder: Path) -> dict[str, str]:
    """Top name of every module imported anywhere in a folder's code, with one file that does."""
    found: dict[str, str] = {}
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in names:
                top = name.split(".")[0]
                if top not in sys.stdlib_module_names and top != "apwa_dask":
                    found[top] = str(path.relative_to(ROOT))
    return found


def test_requirements_have_lower_bounds_and_no_pins():
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    wrong = [str(r) for r in requirements(lines) if [s.operator for s in r.specifier] != [">="]]
    assert wrong == []


def test_every_extra_that_an_extra_names_exists():
    named = {
        extra
        for lines in EXTRAS.values()
        for line in lines
        if canonicalize_name(Requirement(line).name) == "apwa-dask"
        for extra in Requirement(line).extras
    }
    assert named <= set(EXTRAS)
    assert {"local", "s3", "gcs", "azure", "fast", "dashboard", "notebook", "test", "docs", "dev"} == set(
        EXTRAS
    )


def test_environment_yml_has_the_same_names_and_lower_bounds():
    declared = bounds([*PROJECT["dependencies"], *(line for name in IN_ENVIRONMENT for line in EXTRAS[name])])
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    listed = bounds([*conda, *(line for line in pip if not line.startswith("-"))])

    assert {name: bound for name, bound in listed.items() if name not in ONLY_CONDA} == declared
    assert listed["python"] == PROJECT["requires-python"]


def test_every_third_party_import_of_the_package_is_a_declared_dependency():
    declared = set(bounds(PROJECT["dependencies"]))
    undeclared = {
        name: path
        for name, path in third_party_imports(PACKAGE).items()
        if name not in OPTIONAL_IMPORTS and canonicalize_name(DISTRIBUTION_OF.get(name, name)) not in declared
    }
    assert undeclared == {}


def test_no_dependency_is_declared_that_nothing_imports():
    imported = {canonicalize_name(DISTRIBUTION_OF.get(n, n)) for n in third_party_imports(PACKAGE)}
    assert set(bounds(PROJECT["dependencies"])) <= imported


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as it would be published, built with the tools at hand: no download."""
    pytest.importorskip("hatchling", reason="needs the extra `test`")
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(out), str(ROOT)], check=True, timeout=240)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_contains_every_file_of_the_package_and_nothing_else(wheel):
    in_wheel = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "apwa_dask"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout: the files of the package are not listed")
    in_checkout = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    assert in_wheel == in_checkout
    for needed in (
        "apwa.yaml",
        "apwa-schema.yaml",
        "py.typed",
        "models/prices.json",
        "models/local/parts/qwen2.5-coder-1.5b.txt",
        "observe/templates/report.html.j2",
        "demo/gold.csv",
        "demo/data/letters.pdf",
    ):
        assert f"apwa_dask/{needed}" in in_wheel


def test_the_wheel_carries_its_licence_and_names_no_dependency_twice(wheel):
    archive = zipfile.ZipFile(wheel)
    names = archive.namelist()
    (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    text = archive.read(metadata).decode()
    plain = [
        line for line in text.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line
    ]
    assert len(plain) == len(PROJECT["dependencies"])
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/NOTICE") for name in names)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it, this one's other packages beneath it, the checkout unseen."""
    place = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    scheme = {"base": str(place), "platbase": str(place)}
    purelib = Path(sysconfig.get_path("purelib", "venv", vars=scheme))
    # A .pth in a folder that a .pth adds is not followed, so the editable install of the checkout stays out.
    (purelib / "beneath.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run([*command, "--no-index", "--ignore-installed", str(wheel)], check=True, timeout=240)
    return place


def clean_environment() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }


def test_the_installed_wheel_runs_apwa_from_its_own_files(installed, tmp_path):
    code = (
        "import apwa_dask, importlib.resources as r; from apwa_dask import config; "
        "from apwa_dask.models.local.catalogue import CATALOGUE; config.get('store'); "
        "print(apwa_dask.__file__, (r.files('apwa_dask') / 'py.typed').is_file(), len(CATALOGUE) > 0)"
    )
    run = subprocess.run(
        [str(installed / "bin" / "python"), "-c", code],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert run.stdout.split() == [str(next(installed.rglob("apwa_dask/__init__.py"))), "True", "True"]

    command = subprocess.run(
        [str(installed / "bin" / "apwa"), "--help"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    for verb in ("ask", "plan", "run", "status", "resume", "report", "doctor"):
        assert re.search(rf"^\s+{verb}\b", command.stdout, re.MULTILINE)


def test_dask_finds_the_command_line_as_dask_apwa(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "dask", "apwa", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "ask" in run.stdout
    assert "resume" in run.stdout
