"""Lessons of previews and runs, kept in the store beside the runs: numbers only, by plan and models."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
import pyarrow as pa

from apwa_dask.errors import StoreError
from apwa_dask.execution import launch as engine
from apwa_dask.models.model import Model
from apwa_dask.optimize.lessons import Lesson
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.steps import LLMStep
from apwa_dask.store.folder import Folder, open_folder

__all__ = ["Notebook", "contract_key", "lessons_key", "source_mark"]

_logger = logging.getLogger(__name__)
_MARKED_ROWS = 64


class Notebook:
    """Lessons of one process, and those that its store keeps.

    A store that cannot be reached costs the lessons of other processes, and a line of the log: estimates are made
    without them.
    """

    def __init__(self) -> None:
        self._here: dict[str, dict[str, Any]] = {}

    def write(self, key: str, mark: str, lessons: Mapping[str, Lesson], store: str, options: Any) -> None:
        """Keep lessons; one that was learned from more units stays, at the pace of the last."""
        known = self.read(key, mark, store, options)
        learned = {step: _joined(lesson, known.get(step)) for step, lesson in lessons.items()}
        page = {"mark": mark, "steps": {step: one.to_dict() for step, one in {**known, **learned}.items()}}
        self._here[key] = page
        try:
            _folder(store, options).write(f"{key}.json", orjson.dumps(page))
        except (StoreError, OSError) as error:
            _logger.warning("what was learned for estimates is not kept: %s", error)

    def read(self, key: str, mark: str, store: str, options: Any) -> dict[str, Lesson]:
        """Lessons by step. Of other data only what is in proportion to it: tokens and turns, no share of rows."""
        page = self._here.get(key) or _page(key, store, options)
        if page is None:
            return {}
        lessons = {step: Lesson.from_dict(facts) for step, facts in page["steps"].items()}
        if page["mark"] == mark:
            return lessons
        return {step: lesson.without_rows() for step, lesson in lessons.items()}


def _joined(lesson: Lesson, known: Lesson | None) -> Lesson:
    if known is None:
        return lesson
    best = lesson if lesson.paid >= known.paid else known
    rows = lesson if lesson.rows_of_one is not None else known
    pace = known.pace if lesson.pace.latency_s is None else lesson.pace
    return replace(best, rows_of_one=rows.rows_of_one, rows_seen=rows.rows_seen, pace=pace)


def _page(key: str, store: str, options: Any) -> dict[str, Any] | None:
    try:
        page: dict[str, Any] = orjson.loads(_folder(store, options).read(f"{key}.json"))
    except FileNotFoundError:
        return None
    except (StoreError, OSError) as error:
        _logger.warning("lessons of earlier runs cannot be read: %s", error)
        return None
    return page


def _folder(store: str, options: Any) -> Folder:
    return open_folder(store, options).child("lessons")


def lessons_key(plan: Plan, catalog: Mapping[str, pa.Schema], models: Mapping[str, Model]) -> str:
    """Names the lessons of a plan with its models; of whichever data of these columns."""
    facts = [
        plan.hash,
        sorted((alias, str(schema.remove_metadata())) for alias, schema in catalog.items()),
        sorted((alias, model.endpoint_identity, model.name) for alias, model in models.items()),
        sorted(repr(sorted(model.canonical_parameters().items(), key=str)) for model in models.values()),
    ]
    return hashlib.sha256(orjson.dumps(facts)).hexdigest()[:40]


def contract_key(step: LLMStep, model: Model) -> str:
    """Names the lessons of a step with its model, in whichever plan and over whichever data it stands."""
    asks = step.model_dump(mode="json", exclude={"id", "input", "left", "right", "reason"})
    parameters = repr(sorted(model.canonical_parameters().items(), key=str))
    facts = [asks, model.endpoint_identity, model.name, parameters]
    return "c" + hashlib.sha256(orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:39]


def source_mark(sources: Mapping[str, engine.Source]) -> str:
    """Tells data that was seen from other data, cheaply: a frame by its size and a few of its rows."""
    digest = hashlib.sha256()
    for alias, source in sorted(sources.items()):
        digest.update(alias.encode())
        if isinstance(source, engine.FileSource):
            digest.update(source.manifest.fingerprint.encode())
        elif isinstance(source, engine.FrameSource):
            digest.update(str(source.frame._name).encode())
        else:
            frame = source.frame
            some = frame.iloc[:: max(len(frame) // _MARKED_ROWS, 1)]
            digest.update(repr((len(frame), some.astype(object).values.tolist())).encode("utf-8", "replace"))
    return digest.hexdigest()
