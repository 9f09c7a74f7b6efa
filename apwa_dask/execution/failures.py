"""`Failures`: the failed rows of a run as a frame, and those that say the same as one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pyarrow as pa

from apwa_dask.models.types import OutcomeClass

__all__ = ["ADVICE", "Failures", "groups_of", "normalised", "summary_of"]

ADVICE = {
    OutcomeClass.TRUNCATED: "raise the model's max_output_tokens, or ask for shorter answers; then retry_failed()",
    OutcomeClass.INVALID_OUTPUT: "read `raw`; loosen the output's types or say the format in the instruction",
    OutcomeClass.REFUSED: "the model declines: reword the instruction, or use another model",
    OutcomeClass.FILTERED: "the endpoint's content filter stops it: another endpoint, or leave these rows out",
    OutcomeClass.BAD_INPUT: "the step's inputs are missing or do not fit: fill them or filter before this step",
    OutcomeClass.TOO_LARGE: "cut the text with chunk(...) before this step, or use a model with a larger window",
    OutcomeClass.DEADLINE: "raise the contract's limits (seconds) or the model's timeout; then retry_failed()",
    OutcomeClass.TRANSIENT: "the endpoint did not recover: retry_failed() when it has",
    OutcomeClass.TOOL_ERROR: "look at row(id): which tool failed, and with what arguments",
    OutcomeClass.POISON: "these rows end the process that works on them: look at their size, leave them out",
    OutcomeClass.INTERNAL: "an error of this package: please report the message",
}
"""What to do about each class of failure."""

_QUOTED = re.compile(r"'[^'\n]{1,200}'|\"[^\"\n]{1,200}\"")
_VARYING = re.compile(r"\b(?=[0-9a-f-]*\d)[0-9a-f]{8}[0-9a-f-]*\b|\d[\d,._:]*\d|\d", re.IGNORECASE)
_SUMMED = ("input_tokens", "output_tokens", "cost_usd")


class Failures(pd.DataFrame):
    """One row for each row that failed.

    A pandas frame in every way (slices of it are plain frames) with one method more. Columns: ``row_id``,
    ``step``, ``outcome`` (the class), ``message``, ``attempts``, ``input_tokens``, ``output_tokens``,
    ``cost_usd``, ``request_id``, ``model``, ``raw`` (the last answer), ``inputs``.
    """

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    def summary(self) -> pd.DataFrame:
        """Failures that say the same as one line, the most frequent first.

        Returns
        -------
        pandas.DataFrame
            ``rows``, ``outcome``, ``step``, ``message`` (with ``#`` where messages differ by a number or a
            quoted word), ``sample_row`` (for ``run.row``), ``input_tokens``, ``output_tokens``, ``cost_usd``
            (missing where a price is unknown) and ``advice``.
        """
        return summary_of(self)

    @classmethod
    def of(cls, table: pa.Table) -> Failures:
        """From the failure records of a run."""
        hidden = [name for name in ("prompt_hash",) if name in table.column_names]
        return cls(table.drop_columns(hidden).to_pandas())


def normalised(message: str) -> str:
    """`message` with numbers, ids and quoted words replaced, so that equal troubles read alike.

    Examples
    --------
    >>> normalised("a prompt of about 210,331 tokens; 8,192 fit")
    'a prompt of about # tokens; # fit'
    """
    return _VARYING.sub("#", _QUOTED.sub("'#'", message))


def groups_of(failures: pd.DataFrame) -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    """Failures that say the same: outcome, step, message and their rows; the most frequent first."""
    if not len(failures):
        return
    alike = failures["message"].fillna("").map(normalised)
    grouped = failures.groupby([failures["outcome"], failures["step"], alike], sort=True, dropna=False)
    found = [(str(outcome), str(step), str(words), rows) for (outcome, step, words), rows in grouped]
    for outcome, step, words, rows in sorted(found, key=lambda group: -len(group[3])):
        distinct = rows["message"].fillna("").unique()
        yield outcome, step, str(distinct[0]) if len(distinct) == 1 else words, rows


def summary_of(failures: pd.DataFrame) -> pd.DataFrame:
    """See `Failures.summary`."""
    lines: list[dict[str, Any]] = [
        {
            "rows": len(rows),
            "outcome": outcome,
            "step": step,
            "message": message,
            "sample_row": rows["row_id"].iloc[0],
            **{name: rows[name].sum(skipna=name != "cost_usd") for name in _SUMMED if name in rows.columns},
            "advice": ADVICE.get(OutcomeClass(outcome), ""),
        }
        for outcome, step, message, rows in groups_of(failures)
    ]
    summed = [name for name in _SUMMED if name in failures.columns]
    return pd.DataFrame(
        lines, columns=["rows", "outcome", "step", "message", "sample_row", *summed, "advice"]
    )
