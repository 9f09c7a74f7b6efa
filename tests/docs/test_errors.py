"""The catalogue of error codes is complete and true: every code in the source, and no other."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from apwa_dask import errors
from apwa_dask.cli import main
from apwa_dask.cli.command import ApwaCommand
from apwa_dask.error_catalogue import LOST, catalogue, explain_error
from apwa_dask.errors import ConfigError, RunError

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "apwa_dask"
CODE = re.compile(r"[A-Z]+(?:-[A-Z]+)*")
KINDS = {
    name for name in errors.__all__ if name != "candidates" and not issubclass(getattr(errors, name), Warning)
}
ENTRIES = {entry.code: entry for group in catalogue() for entry in group.entries}


def strings(node: ast.expr) -> list[str]:
    """The texts that an expression can be: both branches of a condition, say."""
    return [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]


def name_of(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def codes_given(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Each code in a call, a default or a class body, with the class that is called ('' where it is another function).

    Lower-case codes are those of the wire, which the scripted server sends.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            given = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
            kind = name_of(node.func) if name_of(node.func) in KINDS else ""
            if kind and not given:
                yield getattr(errors, kind).code, kind
            yield from ((code, kind) for value in given for code in strings(value) if CODE.fullmatch(code))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args]
            defaults = zip(arguments[::-1], node.args.defaults[::-1], strict=False)
            keywords = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            for argument, default in (*defaults, *keywords):
                if argument.arg == "code" and default is not None:
                    yield from ((code, "") for code in strings(default) if CODE.fullmatch(code))
        elif isinstance(node, ast.ClassDef):
            for line in node.body:
                if isinstance(line, ast.Assign) and name_of(line.targets[0]) == "code":
                    yield from ((code, "") for code in strings(line.value) if CODE.fullmatch(code))


@pytest.fixture(scope="module")
def found() -> dict[str, set[str]]:
    """Codes in the source, with the classes that carry them where the line says so."""
    codes: dict[str, set[str]] = defaultdict(set)
    for path in sorted(PACKAGE.rglob("*.py")):
        for code, kind in codes_given(ast.parse(path.read_text(encoding="utf-8"))):
            codes[code] |= {kind} - {""}
    return codes


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("raise RunError('x', code='RUN-X')", ("RUN-X", "RunError")),
        ("raise errors.RunError('x')", ("RUN", "RunError")),
        ("self._refused('x', code='A-B' if silent else 'A-C')", ("A-C", "")),
        ("def f(why, code: str = 'A-D'): ...", ("A-D", "")),
        ("def f(*, code='A-E'): ...", ("A-E", "")),
        ("class MyError(ApwaError):\n    code = 'MY'", ("MY", "")),
    ],
)
def test_the_scan_sees_each_way_to_give_a_code(source, expected):
    assert expected in set(codes_given(ast.parse(source)))


def test_every_code_in_the_source_is_in_the_catalogue(found):
    assert len(found) > 90
    assert sorted(set(found) - set(ENTRIES)) == [], "add them to apwa_dask/errors.yaml, then `make errors`"


def test_every_code_of_the_catalogue_is_in_the_source(found):
    assert sorted(set(ENTRIES) - set(found)) == [], "no line of the source gives these codes"


def test_the_catalogue_names_the_classes_that_carry_a_code(found):
    wrong = {
        code: (sorted(kinds), ENTRIES[code].kinds)
        for code, kinds in found.items()
        if code in ENTRIES and not kinds <= set(ENTRIES[code].kinds)
    }
    assert wrong == {}
    assert {kind for entry in ENTRIES.values() for kind in entry.kinds} == KINDS


def test_every_class_of_errors_has_its_own_code_in_the_catalogue():
    own = {getattr(errors, kind).code for kind in KINDS}
    assert len(own) == len(KINDS)
    assert own <= set(ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=list(ENTRIES))
def test_every_entry_says_what_why_what_to_do_and_what_is_lost(entry):
    for text in (entry.means, entry.cause, entry.do):
        assert len(text) > 10
        assert text.endswith(".")
    assert entry.lost in LOST


def test_the_page_is_in_step_with_the_catalogue():
    spec = importlib.util.spec_from_file_location("write_errors", ROOT / "docs" / "write_errors.py")
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    assert writer.PAGE.read_text(encoding="utf-8") == writer.page(), "run `make errors`"


def test_a_code_is_found_in_any_case_and_with_its_brackets():
    assert explain_error("[plan-column]") is ENTRIES["PLAN-COLUMN"]


def test_an_unknown_code_names_the_nearest():
    with pytest.raises(ConfigError, match="PLAN-COLUMN"):
        explain_error("PLAN-COLUMNS")


def test_the_command_line_explains_a_code_as_text_and_as_json():
    told = CliRunner().invoke(main, ["explain-error", "BUDGET-REACHED"])
    assert told.exit_code == 0
    assert "do this: Resume with a larger budget" in told.stdout
    data = json.loads(CliRunner().invoke(main, ["explain-error", "budget-reached", "--json"]).stdout)
    assert data["code"] == "BUDGET-REACHED"
    assert data["kinds"] == ["BudgetError"]
    assert data["lost"] == LOST["kept"]
    assert CliRunner().invoke(main, ["explain-error", "NO-SUCH"]).exit_code == 1


@pytest.mark.parametrize(
    ("fix", "expected"), [("", "do this: apwa explain-error RUN-ROWS"), ("wait", "do this: wait")]
)
def test_the_command_line_names_the_catalogue_where_an_error_does_not_say_what_to_do(fix, expected):
    @click.command(cls=ApwaCommand)
    def failing(as_json: bool) -> None:
        raise RunError("rows are missing", fix=fix, code="RUN-ROWS")

    told = CliRunner().invoke(failing, [])
    assert told.exit_code == 1
    assert [line.strip() for line in told.stderr.splitlines() if "do this" in line] == [expected]


def test_an_error_loads_no_catalogue():
    program = "import sys, apwa_dask.errors; sys.exit('apwa_dask.error_catalogue' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
