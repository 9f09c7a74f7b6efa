"""How a run uses its endpoint's batches, and which models have any."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from apwa_dask.errors import ConfigError, candidates
from apwa_dask.models.model import Model

__all__ = ["BatchTerms", "check_model"]


@dataclass(frozen=True, slots=True)
class BatchTerms:
    """How a run uses its endpoint's batches; the defaults are the limits of OpenAI.

    Parameters
    ----------
    max_requests, max_bytes : int
        Of one batch's input file.
    max_enqueued_tokens : int, optional
        Prompt tokens (estimated) of all unfinished batches of one model together. Without it the run learns it
        from refusals.
    poll_first_s, poll_most_s : float
        Seconds between two looks at the batches: the first interval, and what it grows to.
    attempts : int
        Batches that one request may be part of, when its answers fail or do not come in time.
    """

    max_requests: int = 50_000
    max_bytes: int = 200_000_000
    max_enqueued_tokens: int | None = None
    poll_first_s: float = 2.0
    poll_most_s: float = 60.0
    attempts: int = 3

    def __post_init__(self) -> None:
        counts = (self.max_requests, self.max_bytes, self.attempts, self.max_enqueued_tokens or 1)
        if min(counts) < 1 or not 0 < self.poll_first_s <= self.poll_most_s:
            raise ConfigError(
                "the limits of batches must be positive, and poll_first_s at most poll_most_s",
                where=repr(self),
                code="CONFIG-BATCH",
            )

    @classmethod
    def of(cls, mode: BatchTerms | str) -> BatchTerms | None:
        """The terms that a mode means: None for ``live``.

        Raises
        ------
        ConfigError
            There is no such mode.
        """
        if isinstance(mode, BatchTerms):
            return mode
        if mode not in ("live", "batch"):
            raise ConfigError(
                f"there is no mode {mode!r}",
                fix=candidates(str(mode), ("live", "batch"), noun="modes"),
                code="CONFIG-MODE",
            )
        return cls() if mode == "batch" else None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for specs."""
        return asdict(self)


def check_model(model: Model) -> None:
    """Refuse a model that has no batches by its nature.

    Raises
    ------
    ConfigError
    """
    if model.is_local:
        raise ConfigError(
            "the embedded model has no batches",
            fix="run it live: leave out mode='batch' (--batch)",
            code="CONFIG-BATCH",
        )
    if model.transport == "sdk":
        raise ConfigError(
            "batches need the engine's own transport",
            where=f"model {model.name!r} has transport='sdk'",
            fix="leave out transport='sdk', or run live",
            code="CONFIG-BATCH",
        )
