"""What a row's story and lineage look like, as text and as HTML: bounded, escaped, without scripts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from apwa_dask.observe.grids import facts_html, facts_text, grid_html, grid_text, rows_of, section_html
from apwa_dask.observe.text import count_text, money_text, safe_text

if TYPE_CHECKING:
    from apwa_dask.execution.lineage import Lineage
    from apwa_dask.execution.replay import Exchange
    from apwa_dask.execution.row_story import RowStory, StepStory

__all__ = ["lineage_html", "lineage_text", "story_html", "story_text"]

_MESSAGE_CHARS = 4_000
_VALUE_CHARS = 500
_ORIGINS = 10


def story_text(story: RowStory) -> str:
    """A row's story at a prompt."""
    lines = [facts_text(_title(story), _facts(story))]
    for number, step in enumerate(story.steps, start=1):
        lines += ["", safe_text(f"{number}. {_step_title(step)}")]
        if step.answer is not None:
            lines.append(f"   answer: {safe_text(str(step.answer), max_chars=_VALUE_CHARS)}")
        for exchange in step.exchanges:
            lines.append(f"   -- {safe_text(_exchange_title(exchange))}")
            for role, text in _said(exchange):
                lines += [f"   [{role}]", *(f"   | {line}" for line in _lines(text))]
    return "\n".join([*lines, "", lineage_text(story.lineage)])


def story_html(story: RowStory) -> str:
    """A row's story in a notebook; prompts open with a click."""
    sections = [
        section_html(
            f"{number}. {_step_title(step)}",
            "".join(_exchange_html(exchange) for exchange in step.exchanges) + _answer_html(step),
            is_open=step.outcome != "ok",
        )
        for number, step in enumerate(story.steps, start=1)
    ]
    return facts_html(_title(story), _facts(story), body="".join(sections) + lineage_html(story.lineage))


def lineage_text(lineage: Lineage) -> str:
    """A lineage at a prompt: the way back, and the first rows it leads to."""
    head = f"row {safe_text(lineage.row_id)} comes from {_counted(len(lineage.origins), 'source row')}"
    hops = [f"  {safe_text(line)}" for line in _hops(lineage)]
    grid = grid_text(
        list(lineage.origins.columns),
        rows_of(lineage.origins, _ORIGINS),
        max_rows=_ORIGINS,
        total_rows=len(lineage.origins),
    )
    return "\n".join([head, *hops, grid])


def lineage_html(lineage: Lineage) -> str:
    """A lineage in a notebook."""
    caption = f"row {lineage.row_id} comes from {_counted(len(lineage.origins), 'source row')}"
    grid = grid_html(
        list(lineage.origins.columns),
        rows_of(lineage.origins, _ORIGINS),
        total_rows=len(lineage.origins),
        caption=caption,
        max_rows=_ORIGINS,
    )
    way = grid_html(["the way back"], [[line] for line in _hops(lineage)])
    return grid + section_html("lineage", way)


def _hops(lineage: Lineage) -> Iterator[str]:
    for hop in lineage.hops:
        ids = ", ".join(hop.row_ids) + (", ..." if hop.rows > len(hop.row_ids) else "")
        yield f"<- {' > '.join(hop.steps) or 'read'} ({hop.kind}): {_counted(hop.rows, 'row')} ({ids})"


def _counted(n: int, noun: str) -> str:
    return f"{count_text(n)} {noun}{'' if n == 1 else 's'}"


def _title(story: RowStory) -> str:
    return f"Row {story.row_id} of run {story.run_id}: {story.status}"


def _facts(story: RowStory) -> dict[str, Any]:
    values = {
        name: None if value is None else str(value)[:_VALUE_CHARS] for name, value in story.values.items()
    }
    paid = f"{money_text(story.cost_usd)}, {_counted(story.attempts, 'attempt')}, "
    paid += f"{count_text(story.input_tokens)} + {count_text(story.output_tokens)} tokens"
    return {**({"message": story.message} if story.message else {}), "cost": paid, **values}


def _step_title(step: StepStory) -> str:
    message = f": {step.message}" if step.message else ""
    return f"{step.step} ({step.op}) on {step.row_id}: {step.outcome}{message}"


def _exchange_title(exchange: Exchange) -> str:
    asked = "prompt as stored" if exchange.is_stored else "prompt rendered anew"
    return (
        f"{exchange.outcome} by {exchange.model or 'nobody'}, {exchange.input_tokens} + {exchange.output_tokens} "
        f"tokens, {money_text(exchange.cost_usd)}, {_counted(exchange.attempts, 'attempt')}, request "
        f"{exchange.request_id or 'unknown'}, paid by run {exchange.paid_by} ({asked})"
    )


def _said(exchange: Exchange) -> Iterator[tuple[str, str]]:
    yield from exchange.messages
    if exchange.answer is not None:
        yield "answer", exchange.answer
    for tool in exchange.tools:
        result = "not kept" if tool.result is None else tool.result
        yield "tool", f"{tool.name}({tool.arguments}) -> {result}"


def _exchange_html(exchange: Exchange) -> str:
    said = [(role, text) for role, text in _said(exchange)]
    return grid_html(
        ["who", "text"], said, caption=_exchange_title(exchange), max_rows=100, max_cell_chars=_MESSAGE_CHARS
    )


def _answer_html(step: StepStory) -> str:
    if step.answer is None:
        return ""
    return grid_html(["answer"], [[str(step.answer)]], max_cell_chars=_MESSAGE_CHARS)


def _lines(text: str) -> list[str]:
    return safe_text(text, max_chars=_MESSAGE_CHARS, keep_lines=True).splitlines() or [""]
