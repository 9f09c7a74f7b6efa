"""A program of its own: plans and expressions are checked and run under an audit hook that cannot be taken off.

Prints, as JSON, the events that would be input, output, a new process or new code; how many hostile texts there
were; and those that were not refused.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa

from apwa_dask.agents.builtin import BUILTIN
from apwa_dask.agents.unit import Row, Tables, Unit
from apwa_dask.errors import PlanError
from apwa_dask.plans.explain import explain
from apwa_dask.plans.expressions import check, evaluate
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.validate import problems_of

WATCHED = (
    *("open", "socket.", "subprocess.", "os.", "shutil.", "tempfile.", "glob.", "pathlib.", "ctypes.", "mmap."),
    *("exec", "compile", "import", "marshal.", "pickle.", "code.", "pty.", "urllib.", "http.", "ftplib.", "sqlite3."),
    *("webbrowser.", "syslog.", "fcntl.", "signal.", "gc.", "sys._getframe"),
)  # fmt: skip
ESCAPES = [
    template.format(target)
    for target in ("os", "sys", "subprocess", "socket", "builtins", "importlib", "pathlib")
    for template in (
        "__import__('{}')",
        "importlib.import_module('{}')",
        "eval('{}')",
        "exec('import {}')",
        "(lambda: {})()",
        "().__class__.__bases__[0].__subclasses__()['{}']",
        "text.__class__.__mro__[1].__init__.__globals__['{}']",
        "n.__reduce_ex__(2)['{}']",
        "@{}.system('id')",
        "{{{{ {} }}}}",
        "${{{}}}",
        "f'{{{}}}'",
        "getattr(text, '{}')",
        "globals()['{}']",
        "open('{}')",
        "compile('{}', '', 'exec')",
        "text.format({})",
        "breakpoint('{}')",
        "vars({})",
        "type('{}', (), {{}})",
        "[x for x in {}]",
        "{} if 1 else 2",
        "{}\\u0028\\u0029",
        "text.to_csv('{}')",
        "text.values.tofile('{}')",
        "pd.io.common.os.system('{}')",
        "help('{}')",
        "del {}",
        "yield {}",
        "await {}()",
    )
]
TABLE = pa.table({"n": [1], "text": ["a"]})
PLAN = """
sources: [reviews]
steps:
  - {{op: where, id: w, condition: {}}}
  - {{op: assign, id: a, columns: {{more: {}}}}}
  - {{op: map, id: m, contract: {{instruction: {}, inputs: [text], output: {{grade: integer}}, tools: [{}]}}}}
"""
UNIT = Unit(Row({"n": 1, "text": "a"}, TABLE.schema), Tables({"codes": TABLE}))
events: list[str] = []
watching = False


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    if watching and event.startswith(WATCHED):
        events.append(f"{event} {arguments!r:.200}")


def corpus(tests: Path) -> list[str]:
    """The payloads of the sandbox's own tests, and escapes from Python."""
    spec = importlib.util.spec_from_file_location("sandbox_corpus", tests / "plans" / "test_sandbox.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [*module.payloads(Path("/etc/passwd"), Path("/tmp/apwa-never-written")), *ESCAPES]


def attack(text: str) -> list[str]:
    """Put the text wherever a plan or a model can; where it was taken."""
    taken = []
    for way in (check, evaluate):
        try:
            way({"v": text}, TABLE.schema if way is check else TABLE)
            taken.append(f"{way.__name__}: {text}")
        except PlanError:
            pass
    quoted = json.dumps(text)
    try:
        plan = Plan.from_yaml(PLAN.format(quoted, quoted, quoted, quoted))
    except PlanError:
        return taken + used_as_argument(text)
    found, _ = problems_of(plan, {"reviews": TABLE.schema}, tools={"calculate"})
    told = explain(plan, {"reviews": TABLE.schema})
    if not found or not told.problems or not told.html():
        taken.append(f"plan: {text}")
    if Plan.from_yaml(plan.to_yaml()) != plan:
        taken.append(f"yaml: {text}")
    return taken + used_as_argument(text)


def used_as_argument(text: str) -> list[str]:
    """What a tool made of the text; a search for it and an unknown key are lawful."""
    calls = {"calculate": {"expression": text}, "query_row": {"query": text}, "find_text": {"words": text},
             "lookup_rows": {"table": "codes", "column": "text", "value": text}}  # fmt: skip
    made = {name: BUILTIN[name].run(json.dumps(given), UNIT) for name, given in calls.items()}
    return [f"{name}: {text}" for name in ("calculate", "query_row") if not made[name].error]


def main() -> None:
    global watching
    texts = corpus(Path(__file__).parents[1])
    attack("n + 1")  # what is loaded on first use is loaded now
    attack("CAST(text AS INTEGER)")
    attack("no such")
    sys.addaudithook(hook)
    watching = True
    evaluate({"v": "n + length(text)"}, TABLE)
    taken = [place for text in texts for place in attack(text)]
    watching = False
    print(json.dumps({"texts": len(texts), "taken": taken, "events": events}))


if __name__ == "__main__":
    main()
