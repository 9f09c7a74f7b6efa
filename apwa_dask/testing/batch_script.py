"""What a scripted server does with batches: plain data, part of the script."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from apwa_dask.errors import ConfigError, candidates

__all__ = ["BatchFault", "BatchFaultKind", "BatchRules"]

BatchFaultKind = Literal["expired", "failed", "cancelled", "lost_reply", "gone", "no_results"]


@dataclass(frozen=True, slots=True)
class BatchFault:
    """One way for whole batches to go wrong. (Single lines are struck by the script's other faults.)

    Parameters
    ----------
    kind : BatchFaultKind
        ``expired`` or ``cancelled`` after a part of the lines was answered; ``failed`` in validation;
        ``lost_reply``: the batch is made, and the client never hears of it; ``gone``: it is made, and forgotten;
        ``no_results``: it is answered, and its files are deleted.
    batches : tuple of int
        Which, numbered by creation from 1. All by default.
    answered : float
        Share of the lines answered before the batch ends.
    line : int, optional
        For ``failed``: the line (from 1) that the error names.
    code, message : str
        For ``failed``: what the error says.
    """

    kind: BatchFaultKind
    batches: tuple[int, ...] = ()
    answered: float = 0.5
    line: int | None = None
    code: str = "invalid_json_line"
    message: str = "This line is not parseable as valid JSON."

    def __post_init__(self) -> None:
        known = get_args(BatchFaultKind)
        if self.kind not in known:
            raise ConfigError(
                f"no kind of batch fault is called {self.kind!r}",
                why=candidates(str(self.kind), known, noun="known"),
            )

    def strikes(self, number: int) -> bool:
        """Whether the batch of this number is struck."""
        return not self.batches or number in self.batches


@dataclass(frozen=True, slots=True)
class BatchRules:
    """How a server treats batches.

    Parameters
    ----------
    offered : bool
        False: it knows no ``/files`` and no ``/batches`` (404), as most servers.
    seconds : float
        From a batch's creation to its end; its lines are answered evenly over this time.
    max_requests, max_bytes : int
        Of one input file; beyond, validation fails.
    enqueued_tokens : int, optional
        Prompt tokens of all unfinished batches of a model together; beyond, validation fails.
    faults : tuple of BatchFault
        The first that strikes a batch is the only one.
    """

    offered: bool = True
    seconds: float = 0.0
    max_requests: int = 50_000
    max_bytes: int = 200_000_000
    enqueued_tokens: int | None = None
    faults: tuple[BatchFault, ...] = ()

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> BatchRules:
        """From JSON values.

        Raises
        ------
        TypeError
            For a name that is no field.
        """
        faults = tuple(
            BatchFault(**{**fault, "batches": tuple(fault.get("batches", ()))})
            for fault in values.get("faults", ())
        )
        return cls(**{**values, "faults": faults})
