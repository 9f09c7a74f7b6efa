"""``frame.apwa``: the verbs of a `Table` on pandas and Dask frames.

>>> frame.apwa.map("Severity 1-5", output={"severity": int}).run().result()  # doctest: +SKIP

The accessors are there once ``apwa_dask`` is imported, before or after the frames' own library, which is not
imported for them.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from apwa_dask.errors import candidates

if TYPE_CHECKING:
    from apwa_dask.api import Table

__all__ = ["DaskAccessor", "PandasAccessor", "register"]

_VERBS = (
    "aggregate",
    "assign",
    "chunk",
    "concat",
    "distinct",
    "drop",
    "explode",
    "filter",
    "flat_map",
    "limit",
    "map",
    "merge",
    "profile",
    "reduce",
    "sample",
    "select",
    "sort",
    "where",
)


class _Accessor(ABC):
    """Delegates each verb to the frame's `Table`. Making it looks at nothing."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    @abstractmethod
    def table(self) -> Table:
        """The frame as a `Table`."""

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        if verb not in _VERBS:
            raise AttributeError(f"no verb {verb!r}: {candidates(verb, _VERBS, noun='verbs')}")
        method: Callable[..., Any] = getattr(self.table(), verb)
        return method

    def __dir__(self) -> list[str]:
        return ["table", *_VERBS]


class PandasAccessor(_Accessor):
    """``frame.apwa`` of a pandas frame."""

    def table(self, *, npartitions: int = 1, name: str = "table") -> Table:
        """The frame as a `Table`; see `apwa_dask.from_pandas`."""
        made: Table = _face().from_pandas(self._frame, npartitions=npartitions, name=name)
        return made


class DaskAccessor(_Accessor):
    """``frame.apwa`` of a Dask frame."""

    def table(self, *, name: str = "table") -> Table:
        """The frame as a `Table`; see `apwa_dask.from_dask`."""
        made: Table = _face().from_dask(self._frame, name=name)
        return made


def _face() -> Any:
    """The public names, loaded on first use."""
    return importlib.import_module("apwa_dask")


def register() -> None:
    """Put the accessors on the frames of each library: now where it is loaded, else as soon as it is.

    Importing this package must not bring pandas or Dask, and imports may come in any order.
    """
    for library, put in _LIBRARIES.items():
        if library in sys.modules:
            put()
    if not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport(set(_LIBRARIES) - set(sys.modules)))


def _on_pandas() -> None:
    pd = importlib.import_module("pandas")
    if getattr(pd.DataFrame, "apwa", None) is not PandasAccessor:
        pd.api.extensions.register_dataframe_accessor("apwa")(PandasAccessor)


def _on_dask() -> None:
    frames, extensions = map(importlib.import_module, ("dask.dataframe", "dask.dataframe.extensions"))
    if getattr(frames.DataFrame, "apwa", None) is not DaskAccessor:
        extensions.register_dataframe_accessor("apwa")(DaskAccessor)


_LIBRARIES: dict[str, Callable[[], None]] = {"pandas": _on_pandas, "dask.dataframe": _on_dask}


class _AfterImport(MetaPathFinder):
    """Finds nothing by itself: has a library's accessor put in place right after the library was executed."""

    def __init__(self, awaited: set[str]) -> None:
        self._awaited = awaited

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._awaited:
            return None
        self._awaited.discard(fullname)  # from here on the other finders answer, the next line's question too
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _LIBRARIES[fullname]()

            setattr(spec.loader, "exec_module", execute_and_register)  # noqa: B010 - a method, for this module only
        return spec
