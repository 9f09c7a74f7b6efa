"""How well a manager plans: share of valid plans, and of plans that give the right answer.

Each query of the planner set is planned by the model, and the plan is run over an endpoint whose answers about
rows are the gold ones: a wrong result is the plan's fault. With the embedded model a query takes one to three
minutes on two cores.

    python benchmarks/planner.py --model local
    python benchmarks/planner.py --model local --ids sms-rows,bank-longest
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import apwa_dask as apwa  # noqa: E402
from apwa_dask.errors import ApwaError, PlanError, RefusalError  # noqa: E402
from apwa_dask.testing import Script, ScriptedServer  # noqa: E402
from benchmarks.planner_gold import DATA, QUERIES, Json, gold_answers, tables_of  # noqa: E402
from benchmarks.planner_scoring import is_right  # noqa: E402

VALID_BAR, RIGHT_BAR = 1.0, 0.6
"""Every query gets a valid plan or a refusal; of those over one table so many are right."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One query.

    Attributes
    ----------
    outcome : str
        ``plan``, ``refused`` (with the reason), or ``invalid`` (no valid plan came out).
    right : bool
        The result is the kept answer; a query that cannot be answered is right when it is refused.
    data_calls : int
        Requests about rows. A query that needs no model is right only without any.
    """

    id: str
    single_table: bool
    outcome: str
    right: bool
    data_calls: int
    planning_s: float
    steps: str = ""
    why: str = ""


def judged(query: Json, manager: apwa.Model | str, server: ScriptedServer, store: str) -> Judged:
    """Plan one query, run the plan over gold answers, and compare."""
    tables = tables_of(query)
    server.set(Script(respond=gold_answers(query, strict=False)))
    server.reset()
    single, began = len(tables) == 1, time.monotonic()
    wants_refusal = query["answer_type"] == "refusal"
    try:
        planned = apwa.plan(query["query"], model={"": manager}, store=store, **tables)
    except RefusalError as refusal:
        took_s = time.monotonic() - began
        return Judged(
            query["id"], single, "refused", wants_refusal, 0, took_s, why=refusal.why or refusal.what
        )
    except PlanError as error:
        return Judged(query["id"], single, "invalid", False, 0, time.monotonic() - began, why=error.what)
    took_s = time.monotonic() - began
    steps = " ".join(step.op for step in planned.plan.steps)
    right, why = False, ""
    worker = apwa.Model("gold", base_url=server.base_url, max_output_tokens=32_000)
    try:
        result = planned.run(model=worker, store=store, progress=False).result()
        right = not wants_refusal and is_right(query, result)
    except (ApwaError, AttributeError, LookupError, TypeError, ValueError) as error:
        # a plan may give columns that no answer can be read from
        why = f"{type(error).__name__}: {str(error)[:200]}"
    calls = server.calls
    right = right and (query["needs_llm"] or calls == 0)
    return Judged(query["id"], single, "plan", right, calls, took_s, steps, why)


def rates(found: Sequence[Judged]) -> dict[str, float]:
    """Shares, 0 to 1: ``valid`` of all queries, ``right`` of all, ``right_single_table``."""
    single = [one for one in found if one.single_table]

    def share(those: Iterable[bool]) -> float:
        listed = list(those)
        return sum(listed) / len(listed) if listed else 1.0

    return {
        "valid": share(one.outcome != "invalid" for one in found),
        "right": share(one.right for one in found),
        "right_single_table": share(one.right for one in single),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line a query and the rates; 1 where a bar is missed, 2 where there are no queries."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="local", help="the manager: local, or a model of the endpoint")
    parser.add_argument("--ids", default="", help="only these queries, separated by commas")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    given = parser.parse_args(arguments)
    wanted = {name for name in given.ids.split(",") if name}
    queries = [query for query in QUERIES if not wanted or query["id"] in wanted]
    if not queries or wanted - {query["id"] for query in queries}:
        sys.stderr.write(f"no such queries at {DATA}\n")
        return 2
    os.environ.setdefault("OPENAI_API_KEY", "none")
    found = []
    with ScriptedServer(in_process=True) as server, tempfile.TemporaryDirectory() as store:
        for query in queries:
            one = judged(query, given.model, server, store)
            found.append(one)
            mark = "right" if one.right else "wrong"
            sys.stdout.write(
                f"{one.id:22} {one.outcome:8} {mark:6} {one.planning_s:6.1f} s "
                f"{one.data_calls:6} calls  {one.steps}{one.why[:100]}\n"
            )
            sys.stdout.flush()
    shares = rates(found)
    sys.stdout.write("".join(f"{name}: {share:.0%}\n" for name, share in shares.items()))
    if given.json:
        given.json.write_text(
            json.dumps({"rates": shares, "queries": [asdict(one) for one in found]}, indent=1)
        )
    return int(shares["valid"] < VALID_BAR or shares["right_single_table"] < RIGHT_BAR)


if __name__ == "__main__":
    sys.exit(main())
