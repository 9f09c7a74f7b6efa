"""What a run in batches keeps in its folder, as one process sees it: asks, replies, what the endpoint lacks."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import orjson

from apwa_dask.execution.batch_asks import AskBook
from apwa_dask.execution.batch_replies import Replies
from apwa_dask.models.adapt import Adaptation
from apwa_dask.models.types import Template
from apwa_dask.store.runs import RunFolder

__all__ = ["BatchRoom"]

_ADAPTED = "adapted.json"


class BatchRoom:
    """The batch folder of one run. Any thread of a process may use it.

    Parameters
    ----------
    folder : RunFolder
    storage_options : mapping, optional
        For its filesystem.

    Attributes
    ----------
    round : int
        The round that the tasks of this process work in.
    """

    def __init__(self, folder: RunFolder, storage_options: Mapping[str, Any] | None) -> None:
        self.folder = folder.room("batch")
        self.asks = AskBook(self.folder.child("asks"))
        self.replies = Replies(folder.url, storage_options)
        self.round = 0
        self._lock = threading.Lock()
        self._adapted: dict[str, Adaptation] | None = None
        self._templates: dict[int, tuple[Template, Template]] = {}

    def enter(self, round_: int) -> None:
        """A task of this round begins: see what the rounds before have brought."""
        with self._lock:
            if round_ <= self.round:
                return
            self.round, self._adapted, self._templates = round_, None, {}
            self.replies.refresh()

    def as_taken(self, alias: str, template: Template) -> Template:
        """The template without what the endpoint of the model turned out to lack."""
        known = self._templates.get(id(template))
        if known is not None:
            return known[1]
        adaptation = self.adaptations().get(alias)
        taken = adaptation.applied(template) if adaptation else template
        self._templates[id(template)] = (template, taken)  # kept, because it is found by its id
        return taken

    def adaptations(self) -> dict[str, Adaptation]:
        """By the model's alias."""
        if self._adapted is None:
            try:
                stored = orjson.loads(self.folder.read(_ADAPTED))
            except FileNotFoundError:
                stored = {}
            self._adapted = {alias: Adaptation(**fields) for alias, fields in stored.items()}
        return self._adapted

    def adapt(self, alias: str, adaptation: Adaptation) -> None:
        """Remember what the endpoint lacks, for the rounds to come."""
        known = {**self.adaptations(), alias: adaptation}
        data = orjson.dumps({name: asdict(one) for name, one in known.items()})
        self.folder.write(_ADAPTED, data, point="adapted")
        self._adapted = known
