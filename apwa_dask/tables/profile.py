"""What the manager sees of a table: a few kilobytes of metadata, whatever the size of the data."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from . import profile_repr
from .dtypes import writable
from .manifest import Manifest
from .pieces import Piece
from .reading import read_pieces
from .schema import json_texts, type_name
from .tokens import estimate_tokens

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "MAX_PROFILE_BYTES",
    "ColumnProfile",
    "Profile",
    "TokenLengths",
    "profile_frame",
    "profile_source",
    "sample_rows",
]

MAX_PROFILE_BYTES = 8_000
"""Upper bound of ``Profile.to_dict()`` as JSON; details are dropped, samples first, to stay below it."""

_SAMPLE_CHARS = 80
_NAME_CHARS = 120
_DETAIL_CHARS = 200
_FEW_VALUES = 20
_MAX_SAMPLE_TOKENS = 500_000
# Rows that cost more than a line of text to read count more, so that a profile takes seconds, not minutes.
_ROW_COST = {"pages": 20, "all": 5}


@dataclasses.dataclass(frozen=True, slots=True)
class TokenLengths:
    """Quantiles of the estimated tokens of a column's values."""

    median: int
    p95: int
    longest: int


@dataclasses.dataclass(frozen=True, slots=True)
class ColumnProfile:
    """One column.

    Attributes
    ----------
    name : str
    type : str
        string, integer, number, boolean, date, timestamp, binary, list or struct.
    detail : str
        The fields of a nested type, truncated; else "".
    null_share : float or None
        Between 0 and 1; None when no row was seen.
    distinct : int or None
        Estimated number of distinct values in the whole table.
    tokens : TokenLengths or None
        For text and nested columns.
    low, high : int, float, str or None
        Range of numbers, dates and timestamps.
    samples : tuple of str
        A few values, truncated; of columns with few values the commonest.
    """

    name: str
    type: str
    detail: str = ""
    null_share: float | None = None
    distinct: int | None = None
    tokens: TokenLengths | None = None
    low: int | float | str | None = None
    high: int | float | str | None = None
    samples: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Profile:
    """A table's bounded description; statistics come from `sampled_rows` rows.

    Attributes
    ----------
    name : str
    rows : int or None
    exact : bool
        Whether `rows` was counted, not estimated.
    npartitions : int
    sampled_rows : int
    est_tokens : int or None
        Estimated text tokens of the whole table.
    columns : tuple of ColumnProfile
    omitted_columns : int
        Columns left out because the table has too many to describe.
    """

    name: str
    rows: int | None
    exact: bool
    npartitions: int
    sampled_rows: int
    est_tokens: int | None
    columns: tuple[ColumnProfile, ...]
    omitted_columns: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; fields that say nothing are left out, key order is fixed."""
        plain = dataclasses.asdict(self)
        plain["columns"] = [_compact(column) for column in plain["columns"]]
        return _compact(plain)

    def to_json(self) -> bytes:
        """Return `to_dict` as canonical JSON: sorted keys, no blanks."""
        return orjson.dumps(self.to_dict(), option=orjson.OPT_SORT_KEYS)

    def __repr__(self) -> str:
        return profile_repr.text(self)

    def _repr_html_(self) -> str:
        return profile_repr.html(self)


def _compact(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None and value not in ("", (), [])}


class Readable(Protocol):
    """Anything with a manifest and the options to open its files, such as `Source`."""

    @property
    def manifest(self) -> Manifest:
        """Partitions and schema."""

    @property
    def storage_options(self) -> Mapping[str, Any] | None:
        """fsspec options."""


def profile_source(
    source: Readable,
    *,
    name: str = "",
    samples: int = 3,
    max_rows: int = 1000,
    seed: int = 0,
    storage_options: Mapping[str, Any] | None = None,
) -> Profile:
    """Profile a source from its manifest and a bounded sample of its rows.

    Parameters
    ----------
    source : Source, or anything with ``manifest`` and ``storage_options``
    name : str, optional
        What the profile calls the table; by default the source's own name.
    samples : int, default 3
        Values shown of each column; 0 shows none.
    max_rows : int, default 1000
        Rows read; fewer of PDF pages and of whole documents, which take longer.
    seed : int, default 0
        Which partitions are sampled.
    storage_options : mapping, optional
        fsspec options; those of the source when not given.
    """
    manifest = source.manifest
    table = sample_rows(source, max_rows=max_rows, seed=seed, storage_options=storage_options)
    return profile_frame(
        table,
        name=name or getattr(source, "name", "table"),
        rows=manifest.rows,
        exact=True,
        npartitions=manifest.npartitions,
        samples=samples,
        est_tokens=sum(partition.est_tokens for partition in manifest.partitions),
    )


def sample_rows(
    source: Readable,
    *,
    max_rows: int = 1000,
    seed: int = 0,
    storage_options: Mapping[str, Any] | None = None,
) -> pa.Table:
    """A bounded sample of a source's rows: the beginnings of a few partitions, chosen by `seed`."""
    options = source.storage_options if storage_options is None else storage_options
    pieces = _sample_pieces(source.manifest, max_rows, seed)
    table = read_pieces(source.manifest, pieces, source.manifest.schema, storage_options=options)
    return table.slice(0, max_rows)


def _sample_pieces(manifest: Manifest, max_rows: int, seed: int) -> list[Piece]:
    """Choose pieces of a few partitions within the row and token bounds; the last one is shortened."""
    ordinals = list(range(manifest.npartitions))
    random.Random(seed).shuffle(ordinals)
    chosen: list[Piece] = []
    left: float = max_rows
    tokens = _MAX_SAMPLE_TOKENS
    for ordinal in ordinals:
        partition = manifest.partitions[ordinal]
        for piece in partition.pieces:
            cost = _ROW_COST.get(piece.slice.kind, 1)
            if left < cost or (chosen and tokens <= 0):
                return sorted(chosen, key=lambda piece: (piece.file, piece.first_row))
            taken = _shortened(piece, max(1, int(left // cost)))
            chosen.append(taken)
            left -= taken.rows * cost
            tokens -= partition.est_tokens * taken.rows // max(1, partition.rows)
    return sorted(chosen, key=lambda piece: (piece.file, piece.first_row))


def _shortened(piece: Piece, rows: int) -> Piece:
    part = piece.slice
    if piece.rows <= rows or part.kind not in ("rows", "pages", "row_group"):
        return piece
    return Piece(piece.file, dataclasses.replace(part, stop=part.start + rows), rows, piece.first_row)


def profile_frame(
    frame: pd.DataFrame | pa.Table,
    *,
    name: str = "table",
    rows: int | None = None,
    exact: bool | None = None,
    npartitions: int = 1,
    samples: int = 3,
    est_tokens: int | None = None,
) -> Profile:
    """Profile rows in memory, which may be a sample of a larger table.

    Parameters
    ----------
    frame : pandas.DataFrame or pyarrow.Table
    rows : int, optional
        Rows of the whole table; by default those of `frame`, times `npartitions` as an estimate.
    exact : bool, optional
        Whether `rows` was counted; by default True, unless it is that estimate.
    npartitions : int
        Of the whole table; when more than one and `rows` is not given, `frame` is taken for one of them.
    samples : int, default 3
        Values shown of each column; 0 shows none.
    est_tokens : int, optional
        Of the whole table; by default scaled up from `frame`.
    """
    table = frame if isinstance(frame, pa.Table) else _to_arrow(frame)
    total = table.num_rows * npartitions if rows is None else rows
    described = 400  # far more than fit into the byte bound; profiling 10,000 columns would only take time
    columns = [
        _column(field, table.column(index), total, samples)
        for index, field in enumerate(table.schema)
        if index < described
    ]
    profile = Profile(
        name=name,
        rows=total,
        exact=(rows is not None or npartitions == 1) if exact is None else exact,
        npartitions=npartitions,
        sampled_rows=table.num_rows,
        est_tokens=est_tokens if est_tokens is not None else _scaled_tokens(table, total),
        columns=tuple(columns),
        omitted_columns=table.num_columns - len(columns),
    )
    return _bounded(profile)


def _to_arrow(frame: pd.DataFrame) -> pa.Table:
    columns = {}
    for position, label in enumerate(frame.columns):
        values = frame.iloc[:, position]
        try:
            columns[str(label)] = pa.Array.from_pandas(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, UnicodeEncodeError):
            columns[str(label)] = pa.array(
                [None if _is_missing(value) else writable(str(value)) for value in values], pa.string()
            )
    return pa.table(columns) if columns else pa.table({})


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _column(field: pa.Field, column: Any, total: int, samples: int) -> ColumnProfile:
    kind = type_name(field.type)
    nested = pa.types.is_nested(field.type)
    seen = len(column)
    profile = ColumnProfile(
        name=field.name[:_NAME_CHARS], type=kind, detail=str(field.type)[:_DETAIL_CHARS] if nested else ""
    )
    if seen == 0:
        return profile
    values = pc.drop_null(column)
    if pa.types.is_floating(field.type):
        values = values.filter(pc.is_finite(values))
    profile = dataclasses.replace(profile, null_share=round(1 - len(values) / seen, 3))
    if kind == "binary" or len(values) == 0:
        return profile
    texts = _texts(values)
    counts = Counter(texts)
    low, high = _range(values) if kind in ("integer", "number", "date", "timestamp") else (None, None)
    return dataclasses.replace(
        profile,
        distinct=_distinct(counts, len(texts), round(total * len(texts) / seen)),
        tokens=_lengths(texts) if kind in ("string", "list", "struct") else None,
        low=low,
        high=high,
        samples=_samples(texts, counts, samples),
    )


def _range(values: Any) -> tuple[Any, Any]:
    bounds = pc.min_max(values)
    return _plain(bounds["min"]), _plain(bounds["max"])


def _plain(value: Any) -> int | float | str:
    if pa.types.is_integer(value.type) or pa.types.is_floating(value.type):
        return cast("int | float", value.as_py())
    return str(value.cast(pa.string()))


def _texts(values: Any) -> list[str]:
    if pa.types.is_nested(values.type):
        return [text or "" for text in json_texts(values).to_pylist()]
    # Arrow's own text of times: Python cannot hold years past 9999 or nanoseconds.
    plain = pc.cast(values, pa.string()) if pa.types.is_temporal(values.type) else values
    return [str(value) for value in plain.to_pylist()]


def _distinct(counts: Counter[str], seen: int, total: int) -> int:
    """Estimate the distinct values among `total` from a sample of `seen`.

    The guaranteed-error estimator of Charikar, Chaudhuri, Motwani and Narasayya (PODS 2000): values seen once
    are scaled by the square root of the sampling ratio, the others are taken as all found.
    """
    if seen >= total:
        return len(counts)
    once = sum(count == 1 for count in counts.values())
    if once == seen:
        return total
    return min(total, round(math.sqrt(total / seen) * once) + len(counts) - once)


def _lengths(texts: Sequence[str]) -> TokenLengths:
    lengths = sorted(estimate_tokens(text) for text in texts)
    last = len(lengths) - 1
    return TokenLengths(lengths[last // 2], lengths[math.ceil(last * 0.95)], lengths[last])


def _samples(texts: Sequence[str], counts: Counter[str], wanted: int) -> tuple[str, ...]:
    if wanted <= 0:
        return ()
    if len(counts) <= _FEW_VALUES:
        ordered = sorted(counts, key=lambda text: (-counts[text], text))
    else:
        step = max(1, len(texts) // wanted)
        ordered = list(dict.fromkeys([*texts[::step], *texts]))
    return tuple(
        text if len(text) <= _SAMPLE_CHARS else text[: _SAMPLE_CHARS - 1] + "…" for text in ordered[:wanted]
    )


def _scaled_tokens(table: pa.Table, total: int) -> int:
    seen = table.slice(0, 1000)
    if seen.num_rows == 0:
        return 0
    tokens = 0
    for column in seen.columns:
        if type_name(column.type) == "string":
            tokens += sum(estimate_tokens(text) for text in _texts(pc.drop_null(column)))
    return int(tokens * total / seen.num_rows)


def _bounded(profile: Profile) -> Profile:
    """Drop details until `MAX_PROFILE_BYTES` holds: samples, then statistics, then columns."""
    steps = (
        lambda column: dataclasses.replace(column, samples=column.samples[:1]),
        lambda column: dataclasses.replace(column, samples=(), detail=column.detail[:60]),
        lambda column: ColumnProfile(
            column.name, column.type, null_share=column.null_share, tokens=column.tokens
        ),
        lambda column: ColumnProfile(column.name, column.type),
    )
    for step in steps:
        if len(profile.to_json()) <= MAX_PROFILE_BYTES:
            return profile
        profile = dataclasses.replace(profile, columns=tuple(step(column) for column in profile.columns))
    while len(profile.to_json()) > MAX_PROFILE_BYTES:
        kept = len(profile.columns) * 3 // 4
        omitted = profile.omitted_columns + len(profile.columns) - kept
        profile = dataclasses.replace(profile, columns=profile.columns[:kept], omitted_columns=omitted)
    return profile
