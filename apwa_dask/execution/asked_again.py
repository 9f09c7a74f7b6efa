"""Which requests a retry asks anew, though the journal holds an answer: those of the rows that failed.

An answer that was complete, but did not fit the contract, is kept like any other, so that a resume does not pay for
it again. A retry must not be served by it, or it could only fail in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from apwa_dask.errors import StoreError
from apwa_dask.models.types import Request
from apwa_dask.store.record import Record
from apwa_dask.store.runs import RunFolder

__all__ = ["DOCUMENT", "AskedAgain"]

DOCUMENT = "asked-again.txt"


@dataclass(frozen=True)
class AskedAgain:
    """The first requests of the units that failed.

    Parameters
    ----------
    run_id : str
        The retry. Its own answers are served to it: it may be stopped and resumed.
    prompts : frozenset of bytes
        Fingerprints of requests, without namespace.
    """

    run_id: str
    prompts: frozenset[bytes]

    def allows(self, request: Request, record: Record) -> bool:
        """Whether `record` may answer `request`."""
        return record.run_id == self.run_id or request.fingerprint() not in self.prompts

    @classmethod
    def of(cls, folder: RunFolder) -> AskedAgain | None:
        """What the run in `folder` asks anew; None for a run that is no retry."""
        if "retry_of" not in folder.spec:
            return None
        try:
            text = folder.get_text(DOCUMENT)
        except StoreError:
            return None  # a retry of failures that asked nothing
        return cls(folder.run_id, frozenset(bytes.fromhex(line) for line in text.split()))

    @staticmethod
    def write(folder: RunFolder, prompt_hashes: Iterable[str]) -> None:
        """Note in a retry's folder what it asks anew (hexadecimal fingerprints)."""
        known = sorted({prompt for prompt in prompt_hashes if prompt})
        if known:
            folder.put_text(DOCUMENT, "\n".join(known))
