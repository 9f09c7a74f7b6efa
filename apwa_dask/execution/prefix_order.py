"""Rows that share the beginning of their prompt, side by side: providers keep a prompt's beginning for minutes only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["prefix_order"]

SHARED_CHARACTERS = 512
"""Beginnings that are shorter are not worth another order: providers keep them from about 1,000 tokens on, of
which the instruction makes a part."""


def prefix_order(table: pa.Table, columns: Sequence[str]) -> list[int] | None:
    """Positions of the rows in the order of their prompts; None where no two rows begin alike.

    Parameters
    ----------
    table : pyarrow.Table
        A partition.
    columns : sequence of str
        Inputs of the first step that calls a model, in the order in which they stand in the prompt.
    """
    texts = [
        name for name in columns if name in table.column_names and _is_text(table.schema.field(name).type)
    ]
    if not texts or columns[0] != texts[0] or table.num_rows < 3:
        return None
    keys = [(name, "ascending") for name in texts]
    order: list[int] = pc.sort_indices(table.select(texts), sort_keys=keys).to_pylist()
    first = pc.utf8_slice_codeunits(table.column(texts[0]), 0, SHARED_CHARACTERS).to_pylist()
    alike = any(first[a] == first[b] and len(first[a] or "") == SHARED_CHARACTERS for a, b in pairwise(order))
    return order if alike and order != list(range(table.num_rows)) else None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
