"""Clusters of rows that are the same thing: components of agreement, split where judgements contradict one another."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dask.dataframe as dd
import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from apwa_dask.execution.compile import ERROR, STATUS
from apwa_dask.execution.frame_exchange import (
    ORDINAL_BITS,
    POSITION,
    fold,
    mapped,
    row_counts,
    with_positions,
)
from apwa_dask.execution.opaque import opaque
from apwa_dask.plans.lowering import Clustered, left_place, right_place, vector_of, without_vector
from apwa_dask.plans.steps import CANONICAL, CLUSTER, EVIDENCE
from apwa_dask.tables.dtypes import empty_frame, to_arrow, to_pandas

__all__ = ["clustered_frame", "clusters_of"]

_ONE, _OTHER, _SAME = "_apwa_left", "_apwa_right", "_apwa_same"
_PAIRS = pa.schema(
    [
        (_ONE, pa.int64()),
        (_OTHER, pa.int64()),
        (_SAME, pa.bool_()),
        (STATUS, pa.string()),
        (ERROR, pa.string()),
    ]
)
_MEMBERS = pa.schema(
    [
        (POSITION, pa.int64()),
        (CANONICAL, pa.int64()),
        (EVIDENCE, pa.string()),
        (STATUS, pa.string()),
        (ERROR, pa.string()),
    ]
)


def clustered_frame(
    step: Clustered, pairs: dd.DataFrame, rows: dd.DataFrame, schemas: Sequence[pa.Schema], schema: pa.Schema
) -> dd.DataFrame:
    """The table's rows, where they were, with their clusters. Only verdicts (two positions each) are gathered."""
    rows = rows.drop(columns=vector_of(step.of), errors="ignore")
    schemas = [schemas[0], without_vector(schemas[1], step.of)]
    meta = empty_frame(_PAIRS)
    verdicts = fold(mapped(_verdicts, pairs, meta=meta, step=step, schema=schemas[0]), _as_is, meta)
    members = opaque(mapped(_members, verdicts, meta=empty_frame(_MEMBERS)))
    counts = row_counts(rows)
    settings = {"side": schemas[1], "schema": schema}
    return mapped(_clustered, with_positions(rows), members, counts, meta=empty_frame(schema), **settings)


def _verdicts(part: pd.DataFrame, step: Clustered, schema: pa.Schema) -> pd.DataFrame:
    table = to_arrow(part, schema)
    names = (left_place(step.of), right_place(step.of), "match", STATUS, ERROR)
    return to_pandas(pa.Table.from_arrays([table.column(name) for name in names], schema=_PAIRS))


def _as_is(part: pd.DataFrame) -> pd.DataFrame:
    return part


def _members(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Each row that was in a pair: its cluster's chosen row, and what speaks for and against it."""
    table = to_arrow(verdicts, _PAIRS).to_pylist()
    judged = {(min(v[_ONE], v[_OTHER]), max(v[_ONE], v[_OTHER])): v for v in table}
    yes = sorted(pair for pair, v in judged.items() if v[_SAME])
    no = sorted(pair for pair, v in judged.items() if v[_SAME] is False)
    home = clusters_of(yes, no)
    evidence: dict[int, Counter[str]] = defaultdict(Counter)
    reason: dict[int, tuple[str, str]] = {}
    for pair, v in sorted(judged.items()):
        inside = home.get(pair[0], pair[0]) == home.get(pair[1], pair[1])
        kind = _kind(v[_SAME], inside)
        for row in pair:
            evidence[row][kind] += 1
            if kind == "unjudged":
                reason.setdefault(row, (v[STATUS], v[ERROR]))
    grouped = Counter(home.values())
    chosen = _chosen(home, evidence)
    rows = []
    for row in sorted(evidence):
        root = home.get(row, row)
        status, error = reason.get(row, (None, None)) if grouped[root] < 2 else (None, None)
        told = orjson.dumps({kind: evidence[row][kind] for kind in _KINDS}).decode()
        rows.append(
            {POSITION: row, CANONICAL: chosen.get(root, row), EVIDENCE: told, STATUS: status, ERROR: error}
        )
    return to_pandas(pa.Table.from_pylist(rows, schema=_MEMBERS))


_KINDS = ("agree", "against", "overruled", "apart", "unjudged")
"""Pairs of a row: said the same and together, said different and together, said the same and split, said
different and apart, not judged."""


def _kind(same: bool | None, inside: bool) -> str:
    if same is None:
        return "unjudged"
    if same:
        return "agree" if inside else "overruled"
    return "against" if inside else "apart"


def _chosen(home: Mapping[int, int], evidence: Mapping[int, Counter[str]]) -> dict[int, int]:
    """Of each cluster the row that most others agree with; the first of several."""
    best: dict[int, tuple[int, int]] = {}
    for row, root in sorted(home.items()):
        best[root] = min(best.get(root, (1, 0)), (-evidence[row]["agree"], row))
    return {root: row for root, (_, row) in best.items()}


def clusters_of(yes: Sequence[tuple[int, int]], no: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Clusters of correlated judgements: each row to the first row of its cluster.

    Components of agreement without a contradiction are clusters. In the others, pairs are joined greedily, those
    with most common friends first, as long as more judgements between the two clusters say same than different
    (agglomerative correlation clustering; Bansal, Blum and Chawla 2004). The order of the input decides nothing.

    Parameters
    ----------
    yes, no : sequence of (int, int)
        Pairs judged the same, and judged different.
    """
    friends: dict[int, set[int]] = defaultdict(set)
    foes: dict[int, set[int]] = defaultdict(set)
    for pairs, known in ((yes, friends), (no, foes)):
        for a, b in pairs:
            known[a].add(b)
            known[b].add(a)
    whole = _joined(friends, sorted(yes))
    torn = {whole[a] for a, b in no if a in whole and b in whole and whole[a] == whole[b]}
    if not torn:
        return whole
    settled = {row: root for row, root in whole.items() if root not in torn}
    ranked = sorted(
        (pair for pair in yes if whole[pair[0]] in torn),
        key=lambda pair: (-len(friends[pair[0]] & friends[pair[1]]), min(pair), max(pair)),
    )
    return settled | _agglomerated(ranked, friends, foes)


def _joined(friends: Mapping[int, set[int]], pairs: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Union-find: each row to the smallest row of its component."""
    root = {row: row for row in friends}

    def top(row: int) -> int:
        while root[row] != row:
            root[row] = root[root[row]]
            row = root[row]
        return row

    for a, b in pairs:
        one, other = top(a), top(b)
        root[max(one, other)] = min(one, other)
    return {row: top(row) for row in root}


def _agglomerated(
    pairs: Sequence[tuple[int, int]], friends: Mapping[int, set[int]], foes: Mapping[int, set[int]]
) -> dict[int, int]:
    home = {row: row for pair in pairs for row in pair}
    members = {row: [row] for row in home}
    for a, b in pairs:
        one, other = sorted((home[a], home[b]), key=lambda root: (-len(members[root]), root))
        if one == other:
            continue
        small = members[other]
        same = sum(home.get(row) == one for member in small for row in friends[member])
        different = sum(home.get(row) == one for member in small for row in foes.get(member, ()))
        if same > different:
            for member in small:
                home[member] = one
            members[one] += members.pop(other)
    first = {root: min(rows) for root, rows in members.items()}
    return {row: first[root] for row, root in home.items()}


def _clustered(
    part: pd.DataFrame, members: pd.DataFrame, counts: pd.DataFrame, side: pa.Schema, schema: pa.Schema
) -> pd.DataFrame:
    """A row that was in no pair is a cluster of its own; one that failed, or could not be judged, is in none."""
    table = to_arrow(part, side)
    place = part[POSITION].to_numpy("int64")
    known = members.set_index(members[POSITION].astype("int64")).reindex(place)
    chosen = known[CANONICAL].astype("Int64").fillna(pd.Series(place, index=known.index)).to_numpy("int64")
    status = pa.array(known[STATUS].astype("string[pyarrow]"), pa.string(), from_pandas=True)
    error = pa.array(known[ERROR].astype("string[pyarrow]"), pa.string(), from_pandas=True)
    good = np.asarray(part[STATUS].isna() & known[STATUS].isna().to_numpy(), dtype=bool)
    starts = np.concatenate([[0], np.cumsum(counts["rows"].to_numpy("int64"))])
    numbers = starts[chosen >> ORDINAL_BITS] + (chosen & ((1 << ORDINAL_BITS) - 1))
    alone = orjson.dumps(dict.fromkeys(_KINDS, 0)).decode()
    told = known[EVIDENCE].astype(object).where(known[EVIDENCE].notna(), alone).to_numpy()
    made: dict[str, Any] = {
        CLUSTER: pa.array(numbers, pa.int64(), mask=~good),
        CANONICAL: pa.array(chosen == place, pa.bool_(), mask=~good),
        EVIDENCE: pa.array(told, pa.string(), mask=~good),
        STATUS: pc.coalesce(table.column(STATUS), status),
        ERROR: pc.coalesce(table.column(ERROR), error),
    }
    columns = [made[f.name] if f.name in made else table.column(f.name) for f in schema]
    chunked = [c if isinstance(c, pa.ChunkedArray) else pa.chunked_array([c]) for c in columns]
    return to_pandas(pa.Table.from_arrays(chunked, schema=schema))
