"""U19, U20, U22: reprs cost nothing, the library keeps its hands off the process, and its types hold."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import apwa_dask as apwa

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "apwa_dask"


def test_u19_looking_at_any_public_object_calls_nobody(scripted_server, model_at, store):
    server = scripted_server()
    model = model_at(server)
    frame = pd.DataFrame({"text": [f"row {k}" for k in range(8)]})
    table = apwa.from_pandas(frame).map("x", inputs="text", output={"a": int})
    plan = table.plan()
    preview = plan.preview(4, model=model, store=store)
    run = table.run(model=model, store=store, progress=False).wait()
    calls, reads = server.calls, server.stats().reads
    objects = [
        table, table.profile(), plan, plan.plan, plan.explain(model=model), plan.estimate(model=model, store=store),
        plan.graph(), plan.plan.diff(plan.plan), preview, preview.estimate, run, run.failures,
        run.failures.summary(), run.costs(), run.frame, run.row(0), run.lineage(0), model, apwa.Price(1, 2),
        apwa.runs(store=store), apwa.Budget(usd=1.0), plan.to_dask(model=model, store=store),
    ]  # fmt: skip
    for shown in objects:
        assert repr(shown)
        html = getattr(shown, "_repr_html_", lambda: "")() or ""
        assert "<script" not in html
        assert len(html) <= 1_000_000
    assert (server.calls, server.stats().reads) == (calls, reads)


FORBIDDEN_CALLS = {"print", "input", "exit", "quit", "breakpoint", "eval", "exec"}
FORBIDDEN_ATTRIBUTES = {
    "sys.exit", "os._exit", "logging.basicConfig", "warnings.simplefilter", "warnings.filterwarnings",
    "logging.disable", "warnings.resetwarnings",
}  # fmt: skip
FORBIDDEN_TARGETS = {"warnings.showwarning", "sys.stdout", "sys.stderr", "sys.excepthook"}
PROGRAMS = ("cli/", "demo/", "testing/server.py", "models/local/server_main.py")
"""Programs talk to people and end; what they import does not."""


def inside(tree: ast.AST) -> set[int]:
    """Lines inside ``with warnings.catch_warnings()``, which puts everything back."""
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.With) and "catch_warnings" in ast.unparse(node.items[0].context_expr)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def offences(source: str) -> list[str]:
    tree = ast.parse(source)
    guarded = inside(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            is_bare = isinstance(node.func, ast.Name) and name in FORBIDDEN_CALLS
            if is_bare or (name in FORBIDDEN_ATTRIBUTES and node.lineno not in guarded):
                found.append(f"{node.lineno}: {name}")
        if isinstance(node, ast.Assign):
            found += [
                f"{node.lineno}: {ast.unparse(to)} ="
                for to in node.targets
                if ast.unparse(to) in FORBIDDEN_TARGETS
            ]
    return found


ALLOWED = {
    # a child process of ours that has to end at once, and says why beside the call
    "os._exit",
}


def test_u20_library_code_does_not_print_ask_end_or_configure_the_process():
    found = {
        f"{path.relative_to(PACKAGE)}:{what}"
        for path in PACKAGE.rglob("*.py")
        if not str(path.relative_to(PACKAGE)).startswith(PROGRAMS)
        for what in offences(path.read_text(encoding="utf-8"))
        if what.split(": ")[1] not in ALLOWED
    }
    assert found == set()


@pytest.mark.parametrize(
    "code", ["print(1)", "import sys\nsys.exit(2)", "import warnings\nwarnings.showwarning = 1"]
)
def test_u20_the_lint_sees_what_it_is_for(code):
    assert offences(code)


CONFIGURED = """
import logging, sys, warnings
before = (list(logging.root.handlers), logging.root.level, list(warnings.filters), warnings.showwarning,
          sys.excepthook, sys.stdout, sys.stderr)
import apwa_dask
for name in apwa_dask.__all__:
    getattr(apwa_dask, name)
after = (list(logging.root.handlers), logging.root.level, list(warnings.filters), warnings.showwarning,
         sys.excepthook, sys.stdout, sys.stderr)
changed = [a for a, b in zip(before, after) if a != b and not isinstance(a, list)]
assert before[0] == after[0], after[0]
assert not changed, changed
ours = [f for f in after[2] if f not in before[2] and "apwa" in str(f)]
assert not ours, ours
"""


def test_u20_importing_every_public_name_changes_no_handler_hook_or_filter():
    done = subprocess.run(
        [sys.executable, "-c", CONFIGURED], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


SAMPLE = '''
"""What a user writes, as a type checker sees it."""

import pandas as pd
from pydantic import BaseModel

import apwa_dask as apwa


class Complaint(BaseModel):
    severity: int
    product: str


def rate(path: str, store: str) -> pd.DataFrame:
    reviews = apwa.read(path)
    assert isinstance(reviews, apwa.Table)
    rated: apwa.Table = (
        reviews.where("length(text) > 20")
        .map("Severity 1-5.", inputs=["text"], output=Complaint)
        .filter("Is it genuine?", inputs="text")
    )
    plan = rated.plan()
    estimate = plan.estimate(model=apwa.Model("m", price=apwa.Price(1.0, 2.0)))
    if estimate.cost_usd is not None:
        high: float = estimate.cost_usd.high
        assert high >= 0
    shown: pd.DataFrame = plan.preview(20, store=store)
    assert len(shown)
    run: apwa.Run = plan.run(budget=apwa.Budget(usd=5.0), store=store)
    failures: pd.DataFrame = run.failures
    assert not len(failures)
    return run.result()


async def wait_for(run: apwa.Run) -> int:
    done = await run
    reveal_type(done)
    return len(done.result())


rate(5, "store")
'''


def test_u22_a_users_program_is_checked_strictly_and_a_wrong_argument_is_found(tmp_path):
    assert (PACKAGE / "py.typed").exists()
    sample = tmp_path / "sample.py"
    sample.write_text(SAMPLE, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(sample)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    # by name: the type checker may tell from its cache, with the folder of the run before
    wrong = [line for line in done.stdout.splitlines() if f"{sample.name}:" in line and ": error:" in line]
    assert len(wrong) == 1, done.stdout + done.stderr
    assert 'Argument 1 to "rate" has incompatible type "int"; expected "str"' in wrong[0]
    assert "apwa_dask.execution.run.Run" in done.stdout
