"""Quantiles of latencies that were counted in bins. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from apwa_dask.execution.pulse import LATENCY_BINS
from apwa_dask.observe.series import SeriesData

__all__ = ["QUANTILES", "added", "mean_s", "quantile_s", "quantiles_over_time"]

QUANTILES = (0.5, 0.9, 0.99)
_BIN = "latency-"


def quantile_s(bins: Mapping[int, float], q: float) -> float | None:
    """The latency that a share `q` of the calls did not exceed, in seconds; None without calls.

    Within a bin the calls are taken to lie evenly on the logarithmic scale, so it is right to 19 % at worst.
    """
    total = sum(bins.values())
    if total <= 0:
        return None
    rank = q * total
    for place in sorted(bins):
        if bins[place] and rank <= bins[place]:
            return float(2.0 ** ((place + rank / bins[place]) / 4.0) / 1000.0)
        rank -= bins[place]
    return float(2.0 ** ((max(bins) + 1) / 4.0) / 1000.0)


def mean_s(bins: Mapping[int, float]) -> float | None:
    """The mean latency in seconds, each call taken to lie in the middle of its bin; None without calls."""
    total = sum(bins.values())
    if total <= 0:
        return None
    return float(sum(n * 2.0 ** ((place + 0.5) / 4.0) for place, n in bins.items()) / total / 1000.0)


def added(bins: Mapping[int, float], more: Mapping[str, int]) -> dict[int, float]:
    """Both together; bins that no version of this package makes are left out."""
    total = dict(bins)
    for place, n in bins_of(more):
        total[place] = total.get(place, 0) + n
    return total


def bins_of(told: Mapping[str, int]) -> Iterable[tuple[int, int]]:
    """Bins as they travel in an event."""
    return [
        (int(place), int(n)) for place, n in told.items() if place.isdigit() and int(place) < LATENCY_BINS
    ]


def counts_of(told: Mapping[str, int]) -> dict[str, float]:
    """Names under which a series counts the bins."""
    return {f"{_BIN}{place}": float(n) for place, n in bins_of(told)}


def quantiles_over_time(series: SeriesData) -> tuple[list[float], dict[float, list[float]]]:
    """Moments (Unix seconds) at which calls were answered, and each of `QUANTILES` there, in seconds.

    Slots are joined until there are at most a hundred, so that each holds calls enough to speak of.
    """
    step = max(-(-series.slots // 100), 1)
    names = {name: int(name.removeprefix(_BIN)) for name in series.counts if name.startswith(_BIN)}
    times: list[float] = []
    found: dict[float, list[float]] = {q: [] for q in QUANTILES}
    for at in range(0, series.slots, step):
        bins = {place: sum(series.counts[name][at : at + step]) for name, place in names.items()}
        values = [quantile_s(bins, q) for q in QUANTILES]
        if values[0] is None:
            continue
        times.append(series.start_s + (at + step / 2) * series.width_s)
        for q, value in zip(QUANTILES, values, strict=True):
            found[q].append(value or 0.0)
    return times, found
