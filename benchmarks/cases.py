"""The cases of the overhead benchmark: what is asked, of which server. Plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from apwa_dask.testing import Fault, On, Script
from apwa_dask.testing.script import Lognormal, Rule
from benchmarks.workload import LABELS

__all__ = ["CASES", "Case", "chosen", "expected"]

LOGNORMAL_MEAN_S = 0.490
"""Mean of a lognormal with median 0.3 s and 99th percentile 3 s: 0.3 exp(s^2 / 2), s = ln(10) / 2.326."""


@dataclass(frozen=True)
class Case:
    """One job.

    Parameters
    ----------
    name, title : str
        Letter, and what it is about.
    rows : int
        Of a quick client.
    slow_rows : int
        Of a client that costs more than ten times raw aiohttp: everyone's if equal to `rows`.
    concurrency : int
        Calls in flight.
    script : Script
        The server, answers apart.
    mean_latency_s : float
        For the ideal wall.
    distinct_share : float
        Distinct texts per row.
    only_quick : bool
        Leave slow clients out: they would take hours.
    log_calls : bool
        Keep every call of the server's log, for `busy_share`.
    """

    name: str
    title: str
    rows: int
    slow_rows: int
    concurrency: int
    script: Script
    mean_latency_s: float
    distinct_share: float = 1.0
    only_quick: bool = False
    log_calls: bool = False
    notes: Sequence[str] = field(default=())

    def ideal_s(self, rows: int) -> float:
        """The least wall in which the server answers so many rows, by latency and by limit."""
        by_latency = rows * self.distinct_share * self.mean_latency_s / self.concurrency
        if self.script.rpm is None:
            return by_latency
        per_s = self.script.rpm / 60
        return max(by_latency, (rows - per_s * self.script.burst_s) / per_s)


def expected(number: int) -> tuple[str, int]:
    """Topic and severity of ticket `number`: a function of its last digit, whatever prompt surrounds it."""
    digit = number % 10
    return LABELS[digit % len(LABELS)], 1 + digit % 5


def _answers() -> tuple[Rule, ...]:
    rules = []
    for digit in range(10):
        topic, severity = expected(digit)
        answer = {"topic": topic, "severity": severity}
        rules.append(Rule(rf"\bTicket \d*{digit}:", answer, where="prompt"))
    return tuple(rules)


def _tickets(*endings: str) -> On:
    """Always the same rows, whatever prompt surrounds their text."""
    return On(prompt=rf"\bTicket \d*(?:{'|'.join(endings)}):")


_BASE = Script(rules=_answers(), keep_bodies=False, keep_calls=1000)

_FAULTS = (
    Fault("status", _tickets("03", "23", "43", "63", "83"), times=1, status=500),
    Fault("reset", _tickets("11"), times=1),
    Fault("broken_json", _tickets("37"), times=1),
)

CASES: Mapping[str, Case] = {
    case.name: case
    for case in (
        Case("A", "2,000 rows, 200 ms, 64 in flight", 2000, 600, 64, _BASE.but(latency_s=0.2), 0.2),
        Case("B", "20,000 rows, 50 ms, 256 in flight", 20_000, 2000, 256, _BASE.but(latency_s=0.05), 0.05),
        Case(
            "C",
            "stragglers: lognormal, p50 300 ms, p99 3 s, 128 in flight",
            2000,
            1000,
            128,
            _BASE.but(latency_s=Lognormal(0.3, 3.0, seed=7), keep_calls=None),
            LOGNORMAL_MEAN_S,
            log_calls=True,
        ),
        Case(
            "D",
            "5 % 500s, 1 % resets, 1 % broken JSON (each heals at the next attempt), "
            "and 1,800 requests a minute; 64 in flight",
            600,
            600,
            64,
            _BASE.but(latency_s=0.2, faults=_FAULTS, rpm=1800.0),
            0.2,
        ),
        Case(
            "E",
            "half of the rows are duplicates, 200 ms, 64 in flight",
            2000,
            600,
            64,
            _BASE.but(latency_s=0.2),
            0.2,
            distinct_share=0.5,
        ),
        Case(
            "G",
            "200,000 rows at 5 ms, 256 in flight: memory",
            200_000,
            0,
            256,
            _BASE.but(latency_s=0.005),
            0.005,
            only_quick=True,
        ),
    )
}


def chosen(names: Sequence[str], rows: Mapping[str, int]) -> list[Case]:
    """The named cases, with other numbers of rows where given (for every client of the case)."""
    return [
        replace(
            CASES[name],
            rows=rows.get(name, CASES[name].rows),
            slow_rows=min(rows.get(name, CASES[name].slow_rows), CASES[name].slow_rows),
        )
        for name in names
    ]
