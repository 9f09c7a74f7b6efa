"""What the public objects look like at a prompt and in a notebook. Nothing here reads, computes or spends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from apwa_dask.observe.grids import facts_html, facts_text, grid_html, grid_text, section_html
from apwa_dask.observe.text import count_text, money_text, things_text

if TYPE_CHECKING:
    from apwa_dask.plans.plan import Plan

__all__ = ["run_html", "run_text", "table_html", "table_text"]

_TYPE_CHARS = 60


class _Planned(Protocol):
    @property
    def plan(self) -> Plan: ...


class _Table(Protocol):
    """A lazy table, as far as a repr looks at it."""

    @property
    def schema(self) -> Any: ...

    def plan(self) -> _Planned: ...


def table_text(table: _Table) -> str:
    """A lazy table at a prompt: where it comes from, the steps so far, its columns and types."""
    return f"{_table_title(table)}\n{grid_text(['column', 'type'], _columns(table), max_rows=40)}"


def table_html(table: _Table) -> str:
    """A lazy table in a notebook."""
    title = _table_title(table)
    return grid_html(["column", "type"], _columns(table), caption=title, max_rows=40)


def run_text(status: Mapping[str, Any]) -> str:
    """A run at a prompt, from its status."""
    return facts_text(_run_title(status), _run_facts(status))


def run_html(status: Mapping[str, Any]) -> str:
    """A run in a notebook, from its status; the text says how to go on where it has not ended well."""
    hint = {
        "stopped": "run.resume() goes on; nothing that was paid is paid again",
        "failed": "run.wait() raises the reason; run.resume() goes on",
        "budget": "run.resume() goes on under a larger budget",
    }.get(str(status["status"]), "")
    body = section_html(hint, "") if hint else ""
    return facts_html(_run_title(status), _run_facts(status), body=body)


def _table_title(table: _Table) -> str:
    plan = table.plan().plan
    steps = [f"{step.id} ({step.op})" for step in plan.steps]
    words = f"lazy table over {', '.join(plan.sources)}"
    if not steps:
        return words
    calling = len(plan.llm_steps)
    model = f" ({count_text(calling)} with a model)" if calling else ""
    return f"{words}, steps so far{model}: {' -> '.join(steps)}"


def _columns(table: _Table) -> list[tuple[str, str]]:
    return [(field.name, str(field.type)[:_TYPE_CHARS]) for field in table.schema]


def _run_title(status: Mapping[str, Any]) -> str:
    name = f" ({status['name']})" if status.get("name") else ""
    return f"Run {status['id']}{name}: {status['status']}"


def _run_facts(status: Mapping[str, Any]) -> dict[str, str]:
    answers = {"answers": "by the embedded model; check a sample before you rely on them"}
    return {
        "rows": f"{count_text(status['rows_in'])} in, {count_text(status['rows_out'])} out",
        "failed": count_text(status["rows_failed"]),
        "cost": f"{money_text(status['cost_usd'])} for {things_text(status['calls'], 'call')}{_prices(status)}",
        **({"tokens": _tokens(status)} if status.get("input_tokens") else {}),
        **({"left": _left(status)} if status.get("rows_left") else {}),
        "stages": f"{status['stages_done']} of {status['stages']}",
        **(answers if status.get("local_model") else {}),
    }


def _prices(status: Mapping[str, Any]) -> str:
    as_of = status.get("prices_as_of")
    return f", at prices of {as_of}" if as_of else ""


def _tokens(status: Mapping[str, Any]) -> str:
    given, cached = count_text(status["input_tokens"]), count_text(status["cached_tokens"])
    return f"{given} in ({cached} of them cached), {count_text(status['output_tokens'])} out"


def _left(status: Mapping[str, Any]) -> str:
    rows = f"{'' if status.get('rows_left_exact') else 'at most '}{count_text(status['rows_left'])} rows"
    cost_usd = status.get("cost_left_usd")
    return f"{rows}, cost unknown" if cost_usd is None else f"{rows}, about {money_text(cost_usd)}"
