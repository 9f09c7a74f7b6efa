"""Medians over the rounds, ratios to the floor, and the bars: pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.cases import Case
from benchmarks.contestants import CLIENTS, ENGINES, FLOOR
from benchmarks.measuring import Measurement

__all__ = ["Bar", "Summary", "bars", "bars_table", "summarise", "table"]

POINTS_BEHIND, TIMES_BEST_PEER, CPU_TIMES_FLOOR = 3.0, 3.0, 1.3
IDLE_POINTS, REQUESTS_A_ROW, FLAT_GROWTH = 1.0, 1.15, 0.05


@dataclass(frozen=True)
class Summary:
    """One client in one case.

    Parameters
    ----------
    efficiency : float
        Ideal wall over wall, for the rows that this client was given; NaN where not all of them came out right.
    cpu_ms_per_row : float
        In cases without faults and duplicates: per call.
    steady_cpu_ms_per_row : float
        Slope between two sizes, where the case was run at two.
    """

    case: str
    client: str
    runs: int
    rows: int
    distinct: int
    wall_s: float
    efficiency: float
    cpu_ms_per_row: float
    cpu_ratio: float
    steady_cpu_ms_per_row: float
    process_cpu_s: float
    calls: int
    throttled: int
    right: int
    wrong: int
    failed: int
    lost: int
    peak_mb: float
    growth: float
    busy: float
    max_in_flight: int
    unclassed: int
    trouble: str


@dataclass(frozen=True)
class Bar:
    """One promise, and whether it held."""

    case: str
    client: str
    promise: str
    found: str
    met: bool


def summarise(found: Sequence[Measurement], cases: Iterable[Case]) -> list[Summary]:
    """One summary a case and client, in the order of measuring."""
    summaries: list[Summary] = []
    for case in cases:
        of_case = [m for m in found if m.case == case.name]
        floor = [m for m in of_case if m.client == FLOOR and not m.trouble]
        for client in dict.fromkeys(m.client for m in of_case):
            runs = [m for m in of_case if m.client == client]
            summaries.append(_one(case, client, runs, floor))
    return summaries


def _one(case: Case, client: str, runs: Sequence[Measurement], floor: Sequence[Measurement]) -> Summary:
    size = min(m.wanted_rows for m in runs)
    small = [m for m in runs if m.wanted_rows == size]
    well = [m for m in small if not m.trouble]
    # What is worst in any round is said, not smoothed away.
    worst = max(small, key=lambda m: (m.rows.wrong + m.rows.failed + m.rows.lost, m.calls))
    wall_s = _median(m.wall_s for m in well)
    cpu_ms = 1000 * _median(m.cpu_s for m in well) / size
    floor_ms = _floor_cpu_ms(floor, size)
    return Summary(
        case=case.name,
        client=client,
        runs=len(small),
        rows=size,
        distinct=worst.distinct,
        wall_s=wall_s,
        efficiency=case.ideal_s(size) / wall_s if worst.rows.right == size else float("nan"),
        cpu_ms_per_row=cpu_ms,
        cpu_ratio=cpu_ms / floor_ms,
        steady_cpu_ms_per_row=_slope_ms(runs),
        process_cpu_s=_median(m.process_cpu_s for m in small),
        calls=worst.calls,
        throttled=worst.throttled,
        right=worst.rows.right,
        wrong=worst.rows.wrong,
        failed=worst.rows.failed,
        lost=worst.rows.lost,
        peak_mb=_median(m.peak_mb for m in small),
        growth=_median(m.growth for m in well),
        busy=_median(m.busy for m in well),
        max_in_flight=max(m.max_in_flight for m in small),
        unclassed=max(m.rows.failed - sum(n for name, n in m.classes.items() if name != "ok") for m in small),
        trouble=next((m.trouble for m in small if m.trouble), ""),
    )


def _median(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return median(known) if known else float("nan")


def _floor_cpu_ms(floor: Sequence[Measurement], size: int) -> float:
    """The floor's CPU a row, at this size where it was run at it, else at its own."""
    if not floor:
        return float("nan")
    nearest = min({m.wanted_rows for m in floor}, key=lambda rows: abs(rows - size))
    return 1000 * _median(m.cpu_s for m in floor if m.wanted_rows == nearest) / nearest


def _slope_ms(runs: Sequence[Measurement]) -> float:
    sizes = sorted({m.wanted_rows for m in runs})
    if len(sizes) < 2:
        return float("nan")
    low, high = (_median(m.cpu_s for m in runs if m.wanted_rows == rows) for rows in (sizes[0], sizes[-1]))
    return 1000 * (high - low) / (sizes[-1] - sizes[0])


def bars(summaries: Sequence[Summary]) -> list[Bar]:
    """The promises of the engine, with threads and on Dask workers, as far as the cases run can say."""
    made: list[Bar] = []
    for case, judge in _JUDGES.items():
        of_case = {s.client: s for s in summaries if s.case == case}
        if FLOOR not in of_case:
            continue
        for engine in ENGINES:
            if engine in of_case:
                made += judge(of_case[engine], of_case)
    return made


def _fast(own: Summary, others: dict[str, Summary]) -> list[Bar]:
    floor = _floor_of(own, others)
    behind = 100 * (floor.efficiency - own.efficiency)
    promise = f"efficiency >= that of {floor.client} less 3 points"
    found = [_bar(own, promise, f"{behind:.1f} behind", behind <= POINTS_BEHIND)]
    peers = [s for name, s in others.items() if CLIENTS[name].peer and not math.isnan(s.efficiency)]
    if peers:
        best = max(peers, key=lambda s: s.efficiency)
        times = own.efficiency / best.efficiency
        promise = "efficiency >= 3 times the best peer's"
        found.append(_bar(own, promise, f"{times:.1f} times {best.client}'s", times >= TIMES_BEST_PEER))
    return [*found, *_lean(own, others)]


def _lean(own: Summary, others: dict[str, Summary]) -> list[Bar]:
    floor = _floor_of(own, others)
    times = own.cpu_ratio / floor.cpu_ratio
    return [
        _bar(
            own,
            f"CPU a call <= 1.3 times that of {floor.client}",
            f"{times:.2f} times",
            times <= CPU_TIMES_FLOOR,
        )
    ]


def _floor_of(own: Summary, others: dict[str, Summary]) -> Summary:
    """On Dask workers, raw aiohttp on Dask workers where it was measured."""
    return others.get(ENGINES[own.client], others[FLOOR])


def _no_idle_slot(own: Summary, others: dict[str, Summary]) -> list[Bar]:
    lacking = 100 * (others[FLOOR].busy - own.busy)
    words = f"{own.busy:.1%} of the slots in use, raw aiohttp {others[FLOOR].busy:.1%}"
    return [
        _bar(own, "no idle slot while rows wait (raw aiohttp's less 1 point)", words, lacking <= IDLE_POINTS)
    ]


def _survives(own: Summary, others: dict[str, Summary]) -> list[Bar]:
    words = f"{own.right} right, {own.wrong} wrong, {own.failed} failed ({own.unclassed} unclassed), {own.lost} lost"
    each = own.calls / own.rows
    return [
        _bar(own, "every row right or in its class", words, not (own.wrong or own.lost or own.unclassed > 0)),
        _bar(own, "requests <= 1.15 a row", f"{each:.3f} ({own.throttled} 429s)", each <= REQUESTS_A_ROW),
    ]


def _coalesces(own: Summary, others: dict[str, Summary]) -> list[Bar]:
    words = f"{own.calls} requests, {own.distinct} distinct inputs"
    return [_bar(own, "requests = distinct inputs", words, own.calls == own.distinct)]


def _flat(own: Summary, others: dict[str, Summary]) -> list[Bar]:
    words = f"{own.growth:+.1%} from the middle to the end, peak {own.peak_mb:.0f} MB"
    if math.isnan(own.growth):
        words = "too short a run to say"
    return [_bar(own, "memory flat after warm-up (within 5 %)", words, own.growth <= FLAT_GROWTH)]


def _bar(own: Summary, promise: str, found: str, met: bool) -> Bar:
    """A client in trouble keeps no promise."""
    return Bar(own.case, own.client, promise, own.trouble or found, met and not own.trouble)


_JUDGES: dict[str, Callable[[Summary, dict[str, Summary]], list[Bar]]] = {
    "A": _fast,
    "B": _lean,
    "C": _no_idle_slot,
    "D": _survives,
    "E": _coalesces,
    "G": _flat,
}


def table(summaries: Sequence[Summary], case: Case) -> str:
    """One case as Markdown."""
    own = [s for s in summaries if s.case == case.name]
    head = [
        "client",
        "rows",
        "wall s",
        "efficiency",
        "CPU ms a row",
        "ratio",
        "requests / distinct",
        "429s",
        "right",
        "wrong",
        "failed",
        "lost",
        "peak MB",
        "most in flight",
    ]
    steady = any(not math.isnan(s.steady_cpu_ms_per_row) for s in own)
    extra = (["steady CPU ms a row"] if steady else []) + (["slots in use"] if case.log_calls else [])
    extra += ["growth"] if case.only_quick else []
    lines = ["| " + " | ".join([*head, *extra, ""]).strip(), "|---|" + "--:|" * (len(head) + len(extra) - 1)]
    for s in own:
        cells = [
            s.client,
            f"{s.rows}",
            f"{s.wall_s:.2f}",
            f"{s.efficiency:.1%}",
            f"{s.cpu_ms_per_row:.3f}",
            f"{s.cpu_ratio:.2f}",
            f"{s.calls} / {s.distinct}",
            f"{s.throttled}",
            f"{s.right}",
            f"{s.wrong}",
            f"{s.failed}",
            f"{s.lost}",
            f"{s.peak_mb:.0f}",
            f"{s.max_in_flight}",
        ]
        cells += [f"{s.steady_cpu_ms_per_row:.3f}"] if steady else []
        cells += [f"{s.busy:.1%}"] if case.log_calls else []
        cells += [f"{s.growth:+.1%}"] if case.only_quick else []
        lines.append(
            "| " + " | ".join(cells).replace("+nan%", "-").replace("nan%", "-").replace("nan", "-") + " |"
        )
    troubles = [f"- {s.client}: {s.trouble}" for s in own if s.trouble]
    return "\n".join([*lines, *([""] if troubles else []), *troubles])


def bars_table(made: Sequence[Bar]) -> str:
    """All bars as Markdown."""
    lines = ["| case | client | bar | found | |", "|---|---|---|---|---|"]
    lines += [
        f"| {b.case} | {b.client} | {b.promise} | {b.found} | {'met' if b.met else '**not met**'} |"
        for b in made
    ]
    return "\n".join(lines)
