"""What a committed partition says of itself, and how that is written down."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import orjson

__all__ = ["CommitRecord", "LedgerLine", "PartFile", "decode_commit", "encode_commit"]

_FORMAT = "apwa-commit/1"


@dataclass(frozen=True, slots=True)
class PartFile:
    """An immutable Parquet file of one attempt."""

    name: str
    """Path inside the run folder."""
    rows: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """Calls of one partition that cost alike: same step, model and outcome."""

    step: str
    model: str
    outcome: str
    units: int = 0
    """Rows, groups or packs that ended this way."""
    reused: int = 0
    """Of these, answered by the journal or by an identical request in flight: not paid for."""
    calls: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    estimated: int = 0
    """Units whose tokens, and so their cost, the endpoint did not state: our guess."""
    """None where no price is known."""


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """One partition of one stage, done.

    Parameters
    ----------
    stage : str
    partition : int
    attempt : int
        The attempt that wrote the files.
    part : PartFile
        Its rows; also where there are none.
    failures : PartFile or None
        Dead-letter rows, one for each failed row.
    rows_in, rows_out, failed, cached : int
        Rows read, rows written, rows without an answer, rows answered by the journal.
    ledger : tuple of LedgerLine
    inputs : str
        Fingerprint of what was read.
    started_s, ended_s : float
        Unix times.
    worker : str
        Where it ran.
    generation : int
        0 for the first commit; a retry of failed rows commits the next. The highest one counts.
    """

    stage: str
    partition: int
    attempt: int
    part: PartFile
    failures: PartFile | None = None
    rows_in: int = 0
    rows_out: int = 0
    failed: int = 0
    cached: int = 0
    ledger: tuple[LedgerLine, ...] = ()
    inputs: str = ""
    started_s: float = 0.0
    ended_s: float = 0.0
    worker: str = ""
    generation: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "stage", str(self.stage))
        object.__setattr__(self, "ledger", tuple(self.ledger))

    @property
    def files(self) -> tuple[PartFile, ...]:
        """All files this record stands for."""
        return (self.part,) if self.failures is None else (self.part, self.failures)


def encode_commit(record: CommitRecord) -> bytes:
    """`record` as JSON with a checksum."""
    body = asdict(record)
    return orjson.dumps({"format": _FORMAT, "sha256": _checksum(body), "record": body})


def decode_commit(data: bytes) -> CommitRecord | None:
    """The record in `data`; None where that is damaged or of another format."""
    try:
        envelope = orjson.loads(data)
        body = envelope["record"]
        if envelope["format"] != _FORMAT or envelope["sha256"] != _checksum(body):
            return None
        return CommitRecord(
            **{
                **body,
                "part": PartFile(**body["part"]),
                "failures": PartFile(**body["failures"]) if body["failures"] else None,
                "ledger": tuple(LedgerLine(**line) for line in body["ledger"]),
            }
        )
    except (ValueError, TypeError, KeyError):
        return None


def _checksum(body: Any) -> str:
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()
