"""Which columns the question wants back: "Return id and category", "Return left_id and right_id"."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from apwa_dask.manager.guided.sketch import Sketch
from apwa_dask.plans.steps import Join, Merge

__all__ = ["returned", "wanted_name", "with_returned"]

_RETURN = re.compile(r"\breturn\s+(?P<names>[^.?!]+)", re.IGNORECASE)
_ASIDE = re.compile(r"\([^()]*\)|\bfor (?:each|every|all)\b.*|\b(?:only|as|sorted|ordered|in|where|with)\b.*")
_WRITTEN = re.compile(
    r"(?:\w+ ){0,2}(?:fields?|values?|objects?|labels?|answers?|results?|texts?|translations?|summar(?:y|ies))"
)
"""Words for what a model wrote, whatever its columns are called."""
_PLAIN_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")


def returned(question: str) -> list[str]:
    """What is to be returned, as said; nothing where the question does not say it.

    Examples
    --------
    >>> returned("Which are late? Return the id, city (as it is) and label for every row.")
    ['id', 'city', 'label']
    """
    found = _RETURN.search(question)
    if found is None:
        return []
    names = _ASIDE.sub("", re.sub(r"\([^()]*\)", "", found["names"]))
    parts = (part.strip(" \t\n'\"`") for part in re.split(r",|\band\b", names))
    return [re.sub(r"^(?:the|its|their|an?)\s+", "", part, flags=re.IGNORECASE) for part in parts if part]


def wanted_name(question: str, sketch: Sketch) -> str:
    """The one name to be returned that no column has yet: what is written is called so. Else nothing."""
    held = {name.lower() for name in sketch.schema.names}
    new = [name for name in returned(question) if _column(name) not in held]
    return new[0] if len(new) == 1 and _PLAIN_NAME.fullmatch(new[0]) and new[0] != "file" else ""


def with_returned(sketch: Sketch, question: str) -> Sketch:
    """The plan with a last step that keeps what is to be returned, where each of it is a column."""
    if sketch.aggregated:
        return sketch
    columns: dict[str, str] = {}
    for name in returned(question):
        found = _found(name, sketch)
        if not found:
            return sketch
        columns |= found
    if not columns or list(columns) == sketch.schema.names:
        return sketch
    renamed = {old: new for old, new in columns.items() if old != new}
    return sketch.with_step("select", columns=list(columns), rename=renamed)


def _found(name: str, sketch: Sketch) -> Mapping[str, str]:
    """Columns that are meant, with the names they shall have."""
    by_name = {held.lower(): held for held in sketch.schema.names}
    wanted = _column(name)
    if wanted in by_name:
        return {by_name[wanted]: by_name[wanted]}
    sided = _sided(wanted, sketch)
    if sided:
        return {sided: wanted}
    written = [made for step in sketch.steps if step.op == "map" for made in step.contract.output.names]
    return dict(zip(written, written, strict=True)) if _WRITTEN.fullmatch(name.lower()) else {}


def _column(name: str) -> str:
    return re.sub(r"\W+", "_", name.lower())


def _sided(wanted: str, sketch: Sketch) -> str:
    """``left_id``: the column ``id`` of the table ``left``, after two tables were joined."""
    first = sketch.steps[0] if sketch.steps else None
    if not isinstance(first, (Join, Merge)):
        return ""
    side, _, column = wanted.partition("_")
    left, right = _words(first.input), _words(first.right)
    names: Sequence[str] = sketch.schema.names
    if side in left and side not in right and column in names:
        return column
    if first.how in ("semi", "anti"):
        return ""
    both = f"{column}{first.suffix}"
    if side in right and side not in left:
        return both if both in names else column if column in names else ""
    return ""


def _words(table: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", table.lower()))
