"""A frame whose graph is made already, for frames that several others read.

Dask's optimizer walks an expression along every path and not node by node, so that a few shared frames in a row cost
it minutes. What is opaque to it is walked once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import dask.dataframe as dd
from dask.dataframe.dask_expr import from_graph

__all__ = ["opaque"]


class _Layer(Mapping[Any, Any]):
    """Tasks by key, identified by the frame they make: naming a frame must not mean to hash its whole graph."""

    def __init__(self, tasks: Mapping[Any, Any], name: str) -> None:
        self._tasks, self._name = tasks, name

    def __getitem__(self, key: Any) -> Any:
        return self._tasks[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def __dask_tokenize__(self) -> str:
        return self._name


def opaque(frame: dd.DataFrame) -> dd.DataFrame:
    """The same frame with its graph in one piece; tasks keep their names, so what frames share runs once."""
    # fused tasks would have other names in each frame that reads them
    lowered = frame.optimize(fuse=False)
    layer = _Layer(dict(lowered.__dask_graph__()), str(frame._name))
    found: dd.DataFrame = from_graph(
        layer, frame._meta, (None,) * (lowered.npartitions + 1), list(lowered.__dask_keys__()), "apwa-made"
    )
    return found
