"""The read report: one row a file, so that nothing is silently missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FileReport", "ReadReport"]

Status = Literal["ok", "empty", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class FileReport:
    """What became of one file.

    Attributes
    ----------
    path : str
    status : {"ok", "empty", "failed", "skipped"}
    format : str
        Format found, or "" where none was.
    reason : str
        Why it failed or was skipped; for a file that was read, what a reader should know (renamed columns,
        guessed encoding), or "".
    rows : int or None
        Rows of the file; None where unknown.
    """

    path: str
    status: Status
    format: str
    reason: str
    rows: int | None


@dataclass(frozen=True)
class ReadReport:
    """One `FileReport` a file, in reading order."""

    files: tuple[FileReport, ...]

    def __iter__(self) -> Iterator[FileReport]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def with_notes(self, table: ReadReport) -> ReadReport:
        """This report of all files, with what is to be known of one table as a whole: widened types, nulls where a
        file lacks a column.
        """
        paths = {file.path for file in self.files}
        return ReadReport((*self.files, *(row for row in table.files if row.path not in paths)))

    @property
    def failed(self) -> tuple[FileReport, ...]:
        """Files that could not be read, each with its reason."""
        return tuple(file for file in self.files if file.status == "failed")

    @property
    def notes(self) -> tuple[FileReport, ...]:
        """Files that were read, with something to know about them."""
        return tuple(file for file in self.files if file.status == "ok" and file.reason)

    def to_frame(self) -> pd.DataFrame:
        """Return the report as a frame: path, status, format, reason, rows (nullable Int64)."""
        import pandas as pd

        columns = ["path", "status", "format", "reason", "rows"]
        frame = pd.DataFrame(
            [[getattr(file, name) for name in columns] for file in self.files], columns=columns
        )
        return frame.astype({"rows": "Int64"})

    def __repr__(self) -> str:
        counts = Counter(file.status for file in self.files if file.format or file.status != "ok")
        said = ", ".join(
            f"{counts[status]} {status}" for status in ("ok", "empty", "skipped", "failed") if counts[status]
        )
        lines = [f"ReadReport({len(self.files)} files: {said or 'none'})"]
        lines += [f"  failed: {file.path}: {file.reason}" for file in self.failed[:5]]
        if len(self.failed) > 5:
            lines.append(f"  ... {len(self.failed) - 5} more failed; see .to_frame()")
        return "\n".join(lines)
