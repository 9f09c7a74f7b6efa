"""Where each key may be: sorted 64-bit prefixes with segment and row, 16 bytes a record.

Immutable blocks that are merged as they grow (the logarithmic method of Bentley and Saxe, 1980), so that
adding a batch costs amortised O(log n) per record and a lookup searches few blocks. A prefix is only a hint:
the reader compares the whole key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from apwa_dask.store.segment import Prefixes, SegmentKeys, prefixes_of

__all__ = ["KeyIndex"]


@dataclass(frozen=True, slots=True)
class _Block:
    prefixes: Prefixes  # sorted
    places: npt.NDArray[np.uint64]  # segment << 32 | row

    def __len__(self) -> int:
        return len(self.prefixes)

    @classmethod
    def sorted_from(
        cls, prefixes: Sequence[Prefixes], places: Sequence[npt.NDArray[np.uint64]], *, are_runs: bool
    ) -> _Block:
        """`are_runs`: each of `prefixes` is sorted already, which a merge sort finds and any other does not."""
        joined = np.concatenate(prefixes)
        order = np.argsort(joined, kind="stable" if are_runs else None)
        return cls(joined[order], np.concatenate(places)[order])


@dataclass(frozen=True, slots=True)
class KeyIndex:
    """An immutable index; `adding` gives a new one that shares most of it."""

    blocks: tuple[_Block, ...] = ()

    def __len__(self) -> int:
        return sum(map(len, self.blocks))

    @property
    def size_bytes(self) -> int:
        return 16 * len(self)

    def adding(self, segments: Iterable[tuple[int, SegmentKeys]]) -> KeyIndex:
        """This index and the keys of `segments`, numbered by the caller."""
        prefixes, places = [], []
        for number, keys in segments:
            if len(keys.rows):
                prefixes.append(keys.prefixes)
                places.append(np.uint64(number << 32) | keys.rows.astype(np.uint64))
        if not prefixes:
            return self
        blocks = [*self.blocks, _Block.sorted_from(prefixes, places, are_runs=False)]
        while len(blocks) > 1 and len(blocks[-2]) <= 2 * len(blocks[-1]):
            right, left = blocks.pop(), blocks.pop()
            runs = [left.prefixes, right.prefixes], [left.places, right.places]
            blocks.append(_Block.sorted_from(*runs, are_runs=True))
        return KeyIndex(tuple(blocks))

    def without(self, segments: Iterable[int]) -> KeyIndex:
        """This index less the rows of `segments`."""
        dropped = np.fromiter(segments, dtype=np.uint64)
        kept = []
        for block in self.blocks:
            stays = ~np.isin(block.places >> np.uint64(32), dropped)
            if stays.any():
                kept.append(_Block(block.prefixes[stays], block.places[stays]))
        return KeyIndex(tuple(kept))

    def locate(self, keys: Sequence[bytes]) -> dict[int, list[tuple[int, bytes]]]:
        """Segment number -> (row, key) pairs at which one of `keys` may be."""
        if not self.blocks or not keys:
            return {}
        wanted = prefixes_of(keys)
        places: dict[int, list[tuple[int, bytes]]] = {}
        for block in self.blocks:
            left = np.searchsorted(block.prefixes, wanted, side="left")
            right = np.searchsorted(block.prefixes, wanted, side="right")
            for i in np.flatnonzero(right > left).tolist():
                for place in block.places[left[i] : right[i]].tolist():
                    places.setdefault(place >> 32, []).append((place & 0xFFFFFFFF, keys[i]))
        return places
