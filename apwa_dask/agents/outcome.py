"""`Outcome`: how one unit of work ended, and what it cost."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from apwa_dask.models.types import NO_USAGE, OutcomeClass, Usage

__all__ = ["Outcome", "OutcomeSource"]

OutcomeSource = Literal["live", "journal", "shared", "none"]


class Outcome(NamedTuple):
    """One unit's end. Exactly one per row.

    Parameters
    ----------
    outcome : OutcomeClass
        ``ok``, a failure class, or a pending class (the row has no outcome yet).
    values : dict, optional
        The typed answer of a map, filter or reduce; values fit the Arrow types of the contract's output.
    rows : list of dict, optional
        The typed answers of a flat_map, perhaps none.
    message : str
        Why it failed, in safe words: no key, no row text.
    raw : str, optional
        The model's last text, kept for failures.
    usage, cost_usd : Usage, float or None
        Over all calls of the unit; a call shared by several rows is divided among them. None: price unknown.
    attempts, calls : int
        Requests sent, retries included; and distinct requests. The first row of a pack carries the pack's.
    source : str
        ``live`` when any call was paid for by this unit, else ``shared``, ``journal``, or ``none`` (no call).
    prompt_hash : str
        Of a failure: hexadecimal fingerprint of the unit's first request, without namespace, so that it can be
        asked anew; empty for a good answer, and where no request was made.
    """

    outcome: OutcomeClass
    values: dict[str, Any] | None = None
    rows: list[dict[str, Any]] | None = None
    message: str = ""
    raw: str | None = None
    usage: Usage = NO_USAGE
    cost_usd: float | None = 0.0
    attempts: int = 0
    calls: int = 0
    source: OutcomeSource = "none"
    request_id: str = ""
    model: str = ""
    prompt_hash: str = ""

    @property
    def ok(self) -> bool:
        return self.outcome is OutcomeClass.OK
