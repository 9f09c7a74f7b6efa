"""Whether a result is the kept answer, within the query's tolerance."""

from __future__ import annotations

import json
import numbers
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.planner_gold import DATA, Json, age_groups

__all__ = ["is_right", "score"]

_AMBIGUOUS = {"pairs_file": 0.02}
_LEAST_AMBIGUOUS = 0.01
"""Some equal texts and records have different gold (copies of a receipt or of a publication): no plan gives both.
A blocked join also asks about no pair that its block does not offer."""


def is_right(query: Json, found: pd.DataFrame) -> bool:
    """Whether the answer is reached within the tolerance."""
    reached = score(query, found)
    if query["answer_type"] in ("number", "text", "table"):
        return reached == 1.0
    kind = query["answer_type"]
    least = _AMBIGUOUS.get(kind, _LEAST_AMBIGUOUS) if kind.endswith("_file") else 0.0
    return reached >= 1.0 - max(query["tolerance"], least)


def score(query: Json, found: pd.DataFrame) -> float:
    """Between 0 and 1; a result is right when it reaches ``1 - tolerance``.

    Numbers and tables are right or wrong within their relative tolerance, so that theirs is 0 or 1.
    """
    if found.empty:
        return 0.0
    return _SCORES[query["answer_type"]](query, found)


def _number(query: Json, found: pd.DataFrame) -> float:
    values = [value for value in found.iloc[0] if isinstance(value, numbers.Real)]
    return float(
        len(found) == 1 and any(_near(value, query["answer"], query["tolerance"]) for value in values)
    )


def _near(value: Any, wanted: Any, tolerance: float) -> bool:
    try:
        return abs(float(value) - float(wanted)) <= max(tolerance * abs(float(wanted)), 1e-4)
    except (TypeError, ValueError):
        return False


def _key(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return " ".join(str(value).split())


def _same_text(query: Json, found: pd.DataFrame) -> float:
    def plain(value: Any) -> str:
        return re.sub(r"[^A-Z0-9]", "", str(value).upper())

    return float(len(found) == 1 and plain(query["answer"]) in map(plain, found.iloc[0]))


def _f1(found: Collection[Any], wanted: Collection[Any]) -> float:
    common = sum((Counter(found) & Counter(wanted)).values())
    return 2 * common / (len(found) + len(wanted)) if common else 0.0


def _set(query: Json, found: pd.DataFrame) -> float:
    wanted = [_key(value) for value in query["answer"]]
    return max(_f1([_key(Path(str(v)).name if query["id"].startswith("images") else v) for v in found[name]], wanted)
               for name in found.columns)  # fmt: skip


def _list(query: Json, found: pd.DataFrame) -> float:
    wanted = [_key(value) for value in query["answer"]]
    return max(float([_key(value) for value in found[name]] == wanted) for name in found.columns)


def _table(query: Json, found: pd.DataFrame) -> float:
    wanted: Mapping[str, Any] = query["answer"]
    for keys in found.columns:
        named = [
            Path(str(key)).name if query["id"].startswith("images") else _key(key) for key in found[keys]
        ]
        if query["id"].startswith("peps-types"):
            named = [name.strip() for name in named]
        if set(named) != set(wanted) or len(named) != len(wanted):
            continue
        for values in found.columns:
            pairs = zip(named, found[values], strict=True)
            if values != keys and (query["tolerance"] >= 1 or all(
                _near(value, wanted[name], query["tolerance"]) for name, value in pairs
            )):  # fmt: skip
                return 1.0
    return 0.0


def _coverage(query: Json, found: pd.DataFrame) -> float:
    words = set(
        re.findall(r"\w+", " ".join(_key(value) for row in found.itertuples(index=False) for value in row))
    )
    wanted = {str(value) for value in query["answer"]}
    return len(words & wanted) / len(wanted)


# --- gold in files


def _gold(query: Json) -> tuple[list[str], pd.DataFrame]:
    path, _, columns = query["answer"].partition(":")
    file = DATA / path
    if file.suffix == ".parquet":
        frame = pd.read_parquet(file)
    elif file.suffix == ".csv":
        frame = pd.read_csv(file, dtype=str)
    else:
        frame = pd.read_json(file, lines=True, dtype=False)
    return columns.split(","), frame


def _labels(query: Json, found: pd.DataFrame) -> float:
    (key, label), gold = _gold(query)
    wanted = dict(zip(gold[key].astype(str), gold[label], strict=True))
    given = dict(zip(found[key].astype(str), found[label], strict=True))
    return sum(given.get(name) == value for name, value in wanted.items()) / len(wanted)


def _pairs(query: Json, found: pd.DataFrame) -> float:
    columns, gold = _gold(query)
    wanted = set(map(tuple, gold[columns].astype(str).to_numpy()))
    if not set(columns) <= set(found.columns):
        return 0.0
    return _f1(set(map(tuple, found[columns].astype(str).to_numpy())), wanted)


def _fields(query: Json, found: pd.DataFrame) -> float:
    (key, column), gold = _gold(query)
    names = found["path"] if key == "file" and "path" in found else found[key]
    rows = {Path(str(name)).name: row for name, (_, row) in zip(names, found.iterrows(), strict=True)}
    return sum(
        _holds(rows.get(str(name)), wanted) for name, wanted in zip(gold[key], gold[column], strict=True)
    ) / len(gold)


def _holds(row: Any, wanted: Mapping[str, Any]) -> float:
    """Share of the wanted fields that a row has; gold that is null may be missing."""
    if row is None:
        return 0.0
    if "attributes" in row:
        said = Counter((pair["name"], pair["value"]) for pair in row["attributes"])
        return float(said == Counter((name, value) for name, all_of in wanted.items() for value in all_of))
    if "age_groups" in row:
        times = [[result["time"] for result in group["results"]] for group in age_groups(wanted)]
        return float(
            [[result["time"] for result in group["results"]] for group in row["age_groups"]] == times
        )
    right = [_alike(row.get(name), value) for name, value in wanted.items() if value is not None]
    return sum(right) / len(right)


def _alike(value: Any, wanted: Any) -> bool:
    return _near(value, wanted, 0.0) if isinstance(wanted, (int, float)) else _key(value) == _key(wanted)


def _spans(query: Json, found: pd.DataFrame) -> float:
    """Share of the gold spans that are gone."""
    (key, _), gold = _gold(query)
    (written,) = [name for name in found.columns if name != key][-1:]
    answered = found[found[written].notna()]
    texts = dict(zip(answered[key].astype(str), answered[written].astype(str), strict=True))
    gone = total = 0
    for name, text, spans in zip(gold[key], gold["text"], gold["spans"], strict=True):
        for span in spans:
            total += 1
            gone += texts.get(str(name), text).count(span["text"]) < text.count(span["text"])
    return gone / total


def _cells(query: Json, found: pd.DataFrame) -> float:
    """1 when every planted value is gone, and every other cell is as it was."""
    before = pd.read_csv(DATA / query["inputs"][0], dtype=str, keep_default_na=False)
    after = found.astype(object).where(found.notna(), "").astype(str)
    planted = [json.loads(line) for line in (DATA / query["answer"]).read_text(encoding="utf-8").splitlines()]
    if len(before) != len(after) or set(before.columns) != set(after.columns):
        return 0.0
    leaked = sum(
        value in after[cell["column"]].iloc[position]
        for cell in planted
        for position in (before.index[before["case_enquiry_id"] == cell["case_enquiry_id"]][0],)
        for value in cell["values"]
    )
    touched = {cell["case_enquiry_id"] for cell in planted}
    rest = ~before["case_enquiry_id"].isin(touched)
    kept = (
        before.loc[rest, "closure_reason"].to_numpy()
        == after.loc[rest.to_numpy(), "closure_reason"].to_numpy()
    ).all()
    return float(leaked == 0 and kept)


def _rouge(query: Json, found: pd.DataFrame) -> float:
    """Mean F1 of words (ROUGE-1)."""
    (key, column), gold = _gold(query)
    written = [name for name in found.columns if name != key][-1]
    texts = dict(zip(found[key].astype(str), found[written].fillna("").astype(str), strict=True))
    scores = [
        _f1(re.findall(r"\w+", texts.get(str(name), "").lower()), re.findall(r"\w+", str(summary).lower()))
        for name, summary in zip(gold[key], gold[column], strict=True)
    ]
    return sum(scores) / len(scores)


_SCORES: dict[str, Callable[[Json, pd.DataFrame], float]] = {
    "number": _number,
    "text": _same_text,
    "set": _set,
    "list": _list,
    "table": _table,
    "coverage": _coverage,
    "labels_file": _labels,
    "pairs_file": _pairs,
    "fields_file": _fields,
    "spans_file": _spans,
    "cells_file": _cells,
    "rouge_file": _rouge,
}
