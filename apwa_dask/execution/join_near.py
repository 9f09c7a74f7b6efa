"""The nearest texts: character n-grams weighted by rarity, hashed into short vectors. No model is asked.

Each text becomes a vector by signed feature hashing (Weinberger et al. 2009) of its character 3-grams, weighted by
inverse document frequency over the right rows (Sparck Jones 1972); the likeness of two texts is their cosine. The
same texts always give the same neighbours.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from apwa_dask.execution.frame_exchange import POSITION
from apwa_dask.plans.lowering import Pairs

if TYPE_CHECKING:
    from apwa_dask.execution.join_find import Found

__all__ = ["nearest_of"]

_SIZE = 512
_BUCKETS = 1 << 16
_N = 3
_LEFT_AT_ONCE = 1_024
_LONGEST = 2_000
"""Characters of a text that are looked at."""
_WORD = re.compile(r"\w+")

Vectors = np.ndarray[Any, np.dtype[np.float32]]
Places = np.ndarray[Any, np.dtype[np.int64]]


def nearest_of(step: Pairs, left: pa.Table, right: pa.Table, groups: list[tuple[Places, Places]]) -> Found:
    """For each left row, the `step.nearest` most alike right rows of its group; ties go to the earlier row.

    A text without letters or digits, and one that shares no n-gram, has no neighbours. In a table that is joined
    with itself a row is not its own neighbour.
    """
    from apwa_dask.execution.join_find import Found

    mine = [_grams(text) for text in _texts(left, step.similar_left)]
    theirs = [_grams(text) for text in _texts(right, step.similar_right)]
    weights = _weights(theirs)
    vectors = _vectors(mine, weights), _vectors(theirs, weights)
    at = [np.asarray(table.column(POSITION)) for table in (left, right)]
    lefts: list[Places] = []
    rights: list[Places] = []
    for rows, others in groups:
        for start in range(0, len(rows), _LEFT_AT_ONCE):
            some = rows[start : start + _LEFT_AT_ONCE]
            likeness = vectors[0][some] @ vectors[1][others].T
            if step.is_within:
                likeness[at[0][some][:, None] == at[1][others][None, :]] = 0
            near = _top(likeness, step.nearest)
            places = np.repeat(some, near.shape[1]), others[near].ravel()
            alike = np.take_along_axis(likeness, near, axis=1).ravel() > 1e-6
            lefts.append(places[0][alike])
            rights.append(places[1][alike])
    nothing = [np.array([], dtype=np.int64)]
    return Found(np.concatenate(lefts or nothing), np.concatenate(rights or nothing))


def _top(likeness: Vectors, k: int) -> Places:
    """Columns of the k largest values of each row; equal ones by place."""
    if likeness.shape[1] <= k:
        return np.broadcast_to(np.arange(likeness.shape[1]), likeness.shape).copy()
    # float32 products differ in their last digits between machines' libraries: rounded, ties are ties
    rounded = np.round(likeness, 4)
    some = np.argpartition(-rounded, k - 1, axis=1)[:, :k]
    bound = np.take_along_axis(rounded, some, axis=1).min(axis=1)
    chosen = np.empty((len(likeness), k), dtype=np.int64)
    for row in range(len(likeness)):
        reached = np.flatnonzero(rounded[row] >= bound[row])
        chosen[row] = reached[np.lexsort((reached, -rounded[row, reached]))[:k]]
    return chosen


def _texts(table: pa.Table, columns: tuple[str, ...]) -> list[str]:
    cells = [table.column(name).to_pylist() for name in columns]
    return [" ".join(str(cell) for cell in row if cell is not None) for row in zip(*cells, strict=True)]


def _grams(text: str) -> list[int]:
    """Hashes of the distinct n-grams of the words, spaces around each; accents and case do not count."""
    bare = unicodedata.normalize("NFKD", text[:_LONGEST]).casefold()
    bare = "".join(c for c in bare if not unicodedata.combining(c))
    words = (f" {word} " for word in _WORD.findall(bare))
    grams = {word[i : i + _N] for word in words for i in range(max(len(word) - _N + 1, 1))}
    return sorted(zlib.crc32(gram.encode("utf-8", "surrogatepass")) for gram in grams)


def _weights(texts: list[list[int]]) -> np.ndarray[Any, Any]:
    """Inverse document frequency of each bucket of n-grams."""
    counts = np.zeros(_BUCKETS, dtype=np.int64)
    for grams in texts:
        counts[np.unique(np.array(grams, dtype=np.int64) % _BUCKETS)] += 1
    return np.log((1 + len(texts)) / (1 + counts)) + 1


def _vectors(texts: list[list[int]], weights: np.ndarray[Any, Any]) -> Vectors:
    vectors = np.zeros((len(texts), _SIZE), dtype=np.float32)
    for row, grams in enumerate(texts):
        hashes = np.array(grams, dtype=np.int64)
        signs = np.where((hashes >> 20) & 1, 1.0, -1.0)
        np.add.at(vectors[row], (hashes >> 21) % _SIZE, signs * weights[hashes % _BUCKETS])
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.where(norms > 0, norms, 1)
    return vectors
