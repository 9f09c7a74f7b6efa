"""What a plan would do, in words: steps, columns, contracts, tools, cost. Computes and spends nothing."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from apwa_dask.errors import PlanError
from apwa_dask.plans.describe import columns_text, describe
from apwa_dask.plans.infer import Catalog, infer, joined_schema
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.steps import Join, LLMStep, Resolve
from apwa_dask.plans.validate import Warning, problems_of

__all__ = ["Explanation", "Range", "StepEstimate", "explain", "summary", "summary_html", "total_range"]

_MAX_TEXT = 400
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")


@dataclass(frozen=True, slots=True)
class Range:
    """A figure that is not known exactly: low, expected and high."""

    low: float
    expected: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> Range:
        """A known figure."""
        return cls(value, value, value)

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.expected + other.expected, self.high + other.high)


@dataclass(frozen=True, slots=True)
class StepEstimate:
    """Expected work of one step. None is unknown, and is shown as such."""

    rows: Range | None = None
    calls: Range | None = None
    input_tokens: Range | None = None
    output_tokens: Range | None = None
    cost_usd: Range | None = None


@dataclass(frozen=True, slots=True)
class StepView:
    """One step as it is shown."""

    number: int
    id: str
    op: str
    reads: tuple[str, ...]
    does: str
    reason: str
    columns_in: str
    columns_out: str
    facts: tuple[tuple[str, str], ...]
    instruction: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A plan in words. ``text()`` for terminals, ``html()`` for notebooks; both are plain strings."""

    query: str
    sources: tuple[tuple[str, str], ...]
    steps: tuple[StepView, ...]
    result: str
    total: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    problems: tuple[str, ...]

    def text(self) -> str:
        """Numbered steps for a terminal; control characters are taken out."""
        lines = [f"Plan: {self.query}" if self.query else "Plan"]
        lines += [f"  table {alias}: {columns}" for alias, columns in self.sources]
        for step in self.steps:
            lines.append(f"{step.number}. {step.id} = {step.does}")
            if step.reason:
                lines.append(f"     why: {step.reason}")
            if step.instruction:
                lines.append(f"     instruction: {step.instruction}")
            if step.columns_in:
                lines.append(f"     sees: {step.columns_in}")
            lines.append(f"     gives: {step.columns_out}")
            lines += [f"     {name}: {value}" for name, value in step.facts]
        lines.append(f"Result: {self.result}")
        lines += [f"{name}: {value}" for name, value in self.total]
        lines += [f"Warning: {warning}" for warning in self.warnings]
        lines += [f"Problem: {problem}" for problem in self.problems]
        return "\n".join(_CONTROL.sub("", line.replace("\n", " ")) for line in lines)

    def html(self) -> str:
        """The same as an HTML fragment: every text escaped, no script, colours inherited from the page."""
        return _html(self)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return self.html()


def explain(
    plan: Plan,
    catalog: Catalog | None,
    *,
    estimates: Mapping[str, StepEstimate] | None = None,
    models: Mapping[str, str] | None = None,
    tools: Mapping[str, str] | None = None,
) -> Explanation:
    """Say what `plan` would do.

    Parameters
    ----------
    plan : Plan
    catalog : mapping of str to pyarrow.Schema, optional
        Tables by alias; without it the columns of sources are unknown.
    estimates : mapping of str to StepEstimate, optional
        By step id. Steps without one are shown as unknown.
    models : mapping of str to str, optional
        Model name by alias; the run's default under ``""``.
    tools : mapping of str to str, optional
        Power of each registered tool: pure, reads, network, writes.

    Returns
    -------
    Explanation
        An invalid plan is explained too, with its problems listed.
    """
    models, tools = models or {}, tools or {}
    schemas: dict[str, pa.Schema] = {}
    problems: tuple[str, ...] = ()
    warnings: tuple[Warning, ...] = ()
    if catalog is not None:
        named = plan.models | set(models)
        used = {tool for step in plan.llm_steps for tool in step.contract.tools} if not tools else set(tools)
        wrong, warnings = problems_of(plan, catalog, tools=used, models=named)
        problems = tuple(str(problem) for problem in wrong)
        try:
            schemas = infer(plan, catalog)
        except PlanError as error:
            problems = problems or (error.what,)
    views = tuple(
        _view(number, step, schemas, (estimates or {}).get(step.id), models, tools)
        for number, step in enumerate(plan.steps, start=1)
    )
    return Explanation(
        query=_clip(plan.query),
        sources=tuple((alias, _columns(schemas.get(alias))) for alias in plan.sources),
        steps=views,
        result=f"rows of {plan.result}"
        + (f": {_columns(schemas[plan.result])}" if plan.result in schemas else ""),
        total=_total(plan, estimates or {}),
        warnings=tuple(str(warning) for warning in warnings),
        problems=problems,
    )


def _view(
    number: int,
    step: object,
    schemas: Mapping[str, pa.Schema],
    estimate: StepEstimate | None,
    models: Mapping[str, str],
    tools: Mapping[str, str],
) -> StepView:
    assert hasattr(step, "id")
    facts: list[tuple[str, str]] = []
    instruction = columns_in = ""
    if isinstance(step, LLMStep):
        contract = step.contract
        instruction = _clip(contract.instruction)
        before = schemas.get(step.input)
        if isinstance(step, Join) and before is not None and step.right in schemas:
            before = joined_schema("inner", step.suffix, before, schemas[step.right])
        columns_in = columns_text(contract.inputs, before)
        alias = contract.model or ""
        name = models.get(alias, "")
        facts.append(("unit", contract.unit))
        facts.append(
            ("model", f"{alias} ({name})" if alias and name else alias or name or "the run's default")
        )
        if contract.tools:
            shown = ", ".join(f"{tool} ({tools.get(tool, 'power unknown')})" for tool in contract.tools)
            facts.append(("tools", shown))
        if contract.tables:
            facts.append(("tables", f"{', '.join(contract.tables)} (lent to the tools)"))
        if contract.examples:
            facts.append(("examples", str(len(contract.examples))))
        asked = (
            "candidate pairs"
            if isinstance(step, Resolve) or (isinstance(step, Join) and step.is_blocked)
            else "rows"
        )
        facts += _figures(estimate or StepEstimate(), asked)
    elif estimate is not None and estimate.rows is not None:
        facts.append(("rows", _range(estimate.rows)))
    return StepView(
        number=number,
        id=step.id,
        op=step.op,  # type: ignore[attr-defined]
        reads=step.inputs_from,  # type: ignore[attr-defined]
        does=_clip(describe(step)),
        reason=_clip(step.reason),  # type: ignore[attr-defined]
        columns_in=columns_in,
        columns_out=_columns(schemas.get(step.id)),
        facts=tuple(facts),
        instruction=instruction,
    )


def _columns(schema: pa.Schema | None) -> str:
    return "unknown columns" if schema is None else columns_text(schema.names, schema)


def _clip(text: str, limit: int = _MAX_TEXT) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}... ({len(text):,} characters)"


# --- figures


def _figures(estimate: StepEstimate, asked: str) -> list[tuple[str, str]]:
    rows = [(asked, _range(estimate.rows))] if estimate.rows is not None else []
    return [
        *rows,
        ("calls", _range(estimate.calls)),
        ("tokens", f"{_range(estimate.input_tokens)} in, {_range(estimate.output_tokens)} out"),
        ("cost", _money(estimate.cost_usd)),
    ]


def _total(plan: Plan, estimates: Mapping[str, StepEstimate]) -> tuple[tuple[str, str], ...]:
    if not plan.llm_steps:
        return (("Model calls", "none"),)
    found = [estimates.get(step.id, StepEstimate()) for step in plan.llm_steps]
    return (
        ("Calls", _range(total_range([estimate.calls for estimate in found]))),
        ("Cost", _money(total_range([estimate.cost_usd for estimate in found]))),
    )


def total_range(parts: Sequence[Range | None]) -> Range | None:
    """Unknown when any part is unknown: a partial sum would look like a promise."""
    total = Range.exactly(0)
    for part in parts:
        if part is None:
            return None
        total += part
    return total


def _range(figure: Range | None) -> str:
    if figure is None:
        return "unknown"
    if figure.low == figure.high:
        return f"{figure.expected:,.0f}"
    return f"{figure.low:,.0f} - {figure.expected:,.0f} - {figure.high:,.0f}"


def _money(figure: Range | None) -> str:
    if figure is None:
        return "unknown"
    if figure.low == figure.high:
        return f"${_usd(figure.expected)}"
    return f"${_usd(figure.low)} - ${_usd(figure.expected)} - ${_usd(figure.high)}"


def _usd(amount: float) -> str:
    return f"{amount:,.2f}" if amount >= 1 or amount == 0 else f"{amount:.4f}"


# --- short forms


def summary(plan: Plan) -> str:
    """A few lines for a REPL: numbered steps without their columns. Needs no table."""
    head = f"Plan: {_clip(plan.query, 120)}" if plan.query else "Plan"
    lines = [f"{head} ({len(plan.steps)} steps over {', '.join(plan.sources)})"]
    for number, step in enumerate(plan.steps, start=1):
        lines.append(f"{number}. {step.id} = {_clip(describe(step), 160)}")
    return "\n".join(_CONTROL.sub("", line.replace("\n", " ")) for line in lines)


def summary_html(plan: Plan) -> str:
    """`summary` as an escaped HTML fragment."""
    return explain(plan, None).html()


# --- HTML


class _Markup(str):
    """Text that is markup already; everything else is escaped on its way in."""

    __slots__ = ()


def _tag(name: str, *children: str, **attributes: str) -> _Markup:
    inner = "".join(c if isinstance(c, _Markup) else html.escape(_CONTROL.sub("", c)) for c in children)
    extra = "".join(f' {key}="{html.escape(value)}"' for key, value in attributes.items())
    return _Markup(f"<{name}{extra}>{inner}</{name}>")


_BOX = "border:1px solid currentColor;border-radius:6px;padding:.6em .9em;max-width:60em;font-size:.92em"
_STEP = "border-top:1px solid;border-color:rgba(128,128,128,.4);padding:.4em 0"
_QUIET = "opacity:.7"
_QUOTE = "white-space:pre-wrap;border-left:3px solid rgba(128,128,128,.6);margin:.3em 0;padding-left:.6em"


def _html(plan: Explanation) -> str:
    parts = (
        [_tag("strong", "Plan"), _tag("div", plan.query, style=_QUOTE)]
        if plan.query
        else [_tag("strong", "Plan")]
    )
    parts += [
        _tag("div", _tag("span", f"table {alias}: ", style=_QUIET), columns)
        for alias, columns in plan.sources
    ]
    parts += [_step_html(step) for step in plan.steps]
    tail = [_tag("div", _tag("b", "Result: "), plan.result)]
    tail += [_tag("div", _tag("b", f"{name}: "), value) for name, value in plan.total]
    tail += [_tag("div", _tag("b", "Warning: "), warning) for warning in plan.warnings]
    tail += [_tag("div", _tag("b", "Problem: "), problem) for problem in plan.problems]
    parts.append(_tag("div", *tail, style=_STEP))
    return _tag("div", *parts, style=_BOX)


def _step_html(step: StepView) -> _Markup:
    rows = [_tag("div", _tag("b", f"{step.number}. {step.id} "), step.does)]
    if step.reason:
        rows.append(_tag("div", f"why: {step.reason}", style=_QUIET))
    if step.instruction:
        rows.append(_tag("div", step.instruction, style=_QUOTE))
    if step.columns_in:
        rows.append(_tag("div", _tag("span", "sees ", style=_QUIET), step.columns_in))
    rows.append(_tag("div", _tag("span", "gives ", style=_QUIET), step.columns_out))
    if step.facts:
        facts = " | ".join(f"{name}: {value}" for name, value in step.facts)
        rows.append(_tag("div", facts, style=_QUIET))
    return _tag("div", *rows, style=_STEP)
