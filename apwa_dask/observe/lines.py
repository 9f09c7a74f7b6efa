"""A `ProgressState` in words: the live line, the log line and the summary at the end. Pure text."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rich.cells import cell_len, set_cell_size

from apwa_dask.observe.state import ProgressState
from apwa_dask.observe.text import count_text, duration_text, money_text, rate_text, safe_text, things_text

__all__ = ["live_line", "live_lines", "log_line", "summary_lines"]

_BAR_CELLS = 12
_EIGHTHS = " ▏▎▍▌▋▊▉"
_FAILURE_CHARS = 60
_SUMMARY_GROUPS = 3


def live_line(state: ProgressState, width: int = 10_000, *, ascii_only: bool = False) -> str:
    """One line of at most `width` terminal cells; what matters least is left out first."""
    bar = _bar(state, ascii_only=ascii_only)
    # (rank, text): rank 0 stays on the narrowest terminal
    segments = [
        (5, "apwa"),
        (3, bar),
        (0, _rows(state)),
        (0, f"{count_text(state.rows_failed)} failed" if state.rows_failed else ""),
        (4, f"{count_text(state.rows_cached)} cached" if state.rows_cached else ""),
        (4, f"{count_text(state.rows_reused)} reused" if state.rows_reused else ""),
        (3, _in_flight(state) if state.in_flight else ""),
        (5, _waiting(state)),
        (4, _rate(state)),
        (6, _limit(state)),
        (2, _eta(state)),
        (5, _held_back(state)),
        (1, _cost(state)),
        (1, safe_text(state.words)),
        (1, _warning(state)),
        (6, _stage(state)),
        (7, _last_failure(state)),
    ]
    return _fitted([(rank, text) for rank, text in segments if text], width)


def log_line(state: ProgressState, now_s: float) -> str:
    """One plain line for a log: the same facts, nothing left out, no bar, no colour."""
    name = f"apwa {safe_text(state.run_id)}".rstrip()
    parts = [
        f"{name}: {safe_text(state.words)}",
        _rows(state),
        f"{count_text(state.rows_failed)} failed",
        f"{count_text(state.rows_cached)} cached",
        f"{count_text(state.rows_reused)} reused" if state.rows_reused else "",
        "" if state.is_over else _in_flight(state),
        _waiting(state),
        _rate(state),
        _limit(state),
        _eta(state),
        _held_back(state),
        _cost(state),
        _warning(state),
        _elapsed(state, now_s),
        _stage(state),
        _last_failure(state),
    ]
    return ", ".join(part for part in parts if part)


def live_lines(state: ProgressState, width: int) -> tuple[str, str, str, str]:
    """Always four lines, so that what stands below does not jump: rows, pace, money, failures."""
    stage = _stage(state)
    how = [_rate(state), _limit(state), _eta(state), _held_back(state), stage]
    return (
        _cut([f"apwa  {_bar(state, ascii_only=False)}".rstrip(), *_counts(state)], width),
        _cut([safe_text(state.words), *how], width),
        _cut([f"cost {_cost(state)}" if state.calls or state.budget_usd else "", _warning(state)], width),
        _cut([_failures(state)], width),
    )


def summary_lines(state: ProgressState, now_s: float) -> tuple[str, ...]:
    """What stays when the live line goes: the outcome, the bill, and the failures by group."""
    took = f" in {duration_text(state.elapsed_s(now_s))}" if state.started_s is not None else ""
    name = f"apwa {safe_text(state.run_id)}".rstrip()
    counts = [
        _rows(state) + took,
        f"{count_text(state.rows_failed)} failed",
        f"{count_text(state.rows_cached)} cached",
        f"{count_text(state.rows_reused)} reused" if state.rows_reused else "",
    ]
    bill = [
        f"cost {_cost(state)}",
        f"{things_text(state.calls, 'call')}",
        f"{things_text(state.input_tokens, 'token')} in, {count_text(state.output_tokens)} out",
        _held_back(state),
    ]
    lines = [f"{name}: {safe_text(state.words)}, " + _joined(counts), "  " + _joined(bill)]
    if estimated := _estimated(state):
        lines.append(f"  estimated {estimated}")
    if state.warning:
        lines.append("  " + safe_text(state.warning, max_chars=300))
    if state.message:
        lines.append("  " + safe_text(state.message, max_chars=300))
    groups = state.failure_groups
    for group in groups[:_SUMMARY_GROUPS]:
        lines.append(f"  {count_text(group.rows)} failed: {safe_text(group.words, max_chars=120)}")
    if len(groups) > _SUMMARY_GROUPS:
        lines.append(f"  and {_kinds(len(groups) - _SUMMARY_GROUPS)} of failure")
    return tuple(lines)


def _counts(state: ProgressState) -> list[str]:
    return [
        _rows(state),
        f"{count_text(state.rows_failed)} failed",
        f"{count_text(state.rows_cached)} cached",
        f"{count_text(state.rows_reused)} reused" if state.rows_reused else "",
        _in_flight(state),
        _waiting(state),
    ]


def _in_flight(state: ProgressState) -> str:
    """Calls in flight, and the ceiling of one endpoint; those of several say nothing together."""
    (most,) = state.ceilings.values() if len(state.ceilings) == 1 else (0,)
    return f"{count_text(state.in_flight)}{f' of {count_text(most)}' if most else ''} in flight"


def _waiting(state: ProgressState) -> str:
    waiting = state.rows_waiting
    return f"{count_text(waiting)} waiting" if waiting and not state.is_over else ""


def _rate(state: ProgressState) -> str:
    return rate_text(state.rate_per_s) if state.rate_per_s and not state.is_over else ""


def _limit(state: ProgressState) -> str:
    """The announced limit of one endpoint."""
    if len(state.announced_per_s) != 1 or state.is_over:
        return ""
    (per_s,) = state.announced_per_s.values()
    return f"limit {rate_text(per_s)}"


def _held_back(state: ProgressState) -> str:
    return f"{duration_text(state.throttled_s)} held back by limits" if state.throttled_s >= 1 else ""


def _failures(state: ProgressState) -> str:
    """The most frequent groups, and how many more there are."""
    groups = state.failure_groups
    named = [
        f"{count_text(group.rows)} x {safe_text(group.words, max_chars=_FAILURE_CHARS)}"
        for group in groups[:_SUMMARY_GROUPS]
    ]
    more = len(groups) - len(named)
    return "; ".join(named) + (f"; {_kinds(more)} of failure" if more else "")


def _kinds(more: int) -> str:
    return f"{count_text(more)} more {'kind' if more == 1 else 'kinds'}"


def _cut(parts: Iterable[str], width: int) -> str:
    line = "  ".join(part for part in parts if part)
    return line if cell_len(line) <= width else set_cell_size(line, width - 1).rstrip() + "…"


def _rows(state: ProgressState) -> str:
    total = state.rows_total
    done = count_text(state.rows_done)
    return f"{done}/{count_text(total)} rows" if total is not None else f"{done} rows"


def _cost(state: ProgressState) -> str:
    """Money so far and its ceiling. A price that nobody knows is never shown as zero."""
    if state.cost_unknown:
        cost = f"{money_text(state.cost_usd)} + unknown" if state.cost_usd else "unknown cost"
    else:
        cost = money_text(state.cost_usd)
    if state.forecast_usd is not None and not state.is_over:
        cost = f"{cost} (about {money_text(max(state.forecast_usd, state.cost_usd))} in all)"
    return cost if state.budget_usd is None else f"{cost} of {money_text(state.budget_usd)}"


def _estimated(state: ProgressState) -> str:
    """What it was thought to come to, figure by figure as they stand in the line of what it did."""
    figures: tuple[tuple[str, Callable[[float], str], str], ...] = (
        ("cost_usd", money_text, ""),
        ("calls", _whole, " call" if state.estimated.get("calls", (0.0, 0.0))[1] == 1 else " calls"),
        ("input_tokens", _whole, " tokens in"),
        ("output_tokens", _whole, " out"),
        ("minutes", lambda minutes: duration_text(60 * minutes), ""),
    )
    return _joined(
        f"{text(expected)}{unit} ({text(low)} to {text(high)})"
        for name, text, unit in figures
        if name in state.estimated
        for low, expected, high in (state.estimated[name],)
        if name != "minutes" or high * 60 >= 1  # nobody plans by less than a second
    )


def _whole(figure: float) -> str:
    return count_text(round(figure))


def _warning(state: ProgressState) -> str:
    """The warning, as long as it can still be acted on."""
    return (
        safe_text(f"warning: {state.warning}", max_chars=300) if state.warning and not state.is_over else ""
    )


def _eta(state: ProgressState) -> str:
    eta_s = state.eta_s
    if eta_s is None or (eta_s[1] < 1 and not state.in_flight):
        return ""
    low, high = (duration_text(max(seconds, 1.0)) for seconds in eta_s)
    more = " + later stages" if state.stages_planned > len(state.stages) else ""
    return f"ETA {low}{more}" if low == high else f"ETA {low} to {high}{more}"


def _elapsed(state: ProgressState, now_s: float) -> str:
    if state.started_s is None:
        return ""
    elapsed_s = state.elapsed_s(now_s)
    if state.is_over:
        return f"took {duration_text(elapsed_s)}"
    return f"{duration_text(elapsed_s)} so far" if elapsed_s >= 1 else ""


def _stage(state: ProgressState) -> str:
    if state.stages_planned < 2 or not state.stages or state.is_over:
        return ""
    number = max(state.stages)
    name = safe_text(state.stages[number].name, max_chars=30)
    return f"stage {len(state.stages)} of {state.stages_planned}" + (f" ({name})" if name else "")


def _last_failure(state: ProgressState) -> str:
    if not state.last_failure:
        return ""
    rows = state.failures.get(state.last_failure)
    times = f" ({count_text(rows)})" if rows else ""
    return f"last failure: {safe_text(state.last_failure, max_chars=_FAILURE_CHARS)}{times}"


def _bar(state: ProgressState, *, ascii_only: bool) -> str:
    total = state.rows_total
    if not total:
        return ""
    share = min(state.rows_done / total, 1.0)
    if ascii_only:
        full = int(share * _BAR_CELLS)
        return "[" + "#" * full + "." * (_BAR_CELLS - full) + "]"
    eighths = int(share * _BAR_CELLS * 8)
    full, part = divmod(eighths, 8)
    bar = "█" * full + (_EIGHTHS[part] if part else "")
    return "▕" + bar.ljust(_BAR_CELLS) + "▏"


def _fitted(segments: list[tuple[int, str]], width: int) -> str:
    kept = list(segments)
    while kept:
        line = "  ".join(text for _, text in kept)
        if cell_len(line) <= width:
            return line
        least = max(rank for rank, _ in kept)
        if least == 0:
            return set_cell_size(line, width).rstrip()
        last = max(i for i, (rank, _) in enumerate(kept) if rank == least)
        del kept[last]
    return ""


def _joined(parts: Iterable[str]) -> str:
    return ", ".join(part for part in parts if part)
