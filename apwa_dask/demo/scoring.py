"""How many rows of the demo are right: all labels of a row equal the gold columns, or it is wrong. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

import pandas as pd

__all__ = ["LABELS", "PASS_SHARE", "Score", "score"]

LABELS = ("topic", "product")
PASS_SHARE = 0.8
_KEY = ["path", "page"]


@dataclass(frozen=True)
class Score:
    """What came of the comparison.

    Parameters
    ----------
    right, rows : int
        Rows whose every label is right, and rows of the gold file.
    wrong : pandas.DataFrame
        The others: where they are, each label and its gold value.
    """

    right: int
    rows: int
    wrong: pd.DataFrame

    @property
    def share(self) -> float:
        return self.right / self.rows

    @property
    def is_passed(self) -> bool:
        return self.share >= PASS_SHARE


def score(result: pd.DataFrame, gold: pd.DataFrame) -> Score:
    """Compare answers with the gold columns; a row, or a column, that is missing in `result` is wrong.

    Parameters
    ----------
    result : pandas.DataFrame
        ``path`` (any folder), ``page``, and a column for each of `LABELS`.
    gold : pandas.DataFrame
        ``path`` (a file name), ``page``, and a column for each of `LABELS`, in lower case.
    """
    answers = result.reindex(columns=[*_KEY, *LABELS])
    answers = answers.assign(
        path=answers["path"].map(lambda path: PurePath(str(path)).name),
        page=answers["page"].astype("Int64"),
        **{label: answers[label].astype("string").str.strip().str.lower() for label in LABELS},
    ).drop_duplicates(_KEY)
    expected = gold.astype({"page": "Int64"})
    both = expected.merge(answers, on=_KEY, how="left", suffixes=("_gold", ""), validate="one_to_one")
    is_right = pd.Series(True, index=both.index)
    for label in LABELS:
        is_right &= both[label].fillna("") == both[f"{label}_gold"]
    columns = [*_KEY, *(name for label in LABELS for name in (f"{label}_gold", label))]
    return Score(int(is_right.sum()), len(both), both.loc[~is_right, columns])
