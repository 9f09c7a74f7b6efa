"""The picture of a run in its folder: for reports, and for dashboards of other processes."""

from __future__ import annotations

import logging
import time
from functools import cache
from typing import TYPE_CHECKING

import orjson
from pydantic import TypeAdapter, ValidationError

from apwa_dask.errors import StoreError
from apwa_dask.execution.events import RunFinished
from apwa_dask.observe.history import History, Picture

if TYPE_CHECKING:
    from apwa_dask.store.runs import RunFolder

__all__ = ["DOCUMENT", "history_of", "keep_history", "kept_picture"]

DOCUMENT = "seen.json"
"""Counts over time, names of steps and workers, ids of rows; no row text."""

_logger = logging.getLogger(__name__)


def history_of(folder: RunFolder) -> History:
    """A history that goes on where the kept one ends."""
    return History(kept_picture(folder))


def keep_history(folder: RunFolder, history: History | None, status: str) -> None:
    """Write down what was seen, up to an end with this status.

    No result depends on it, so a store that refuses is only noted in the log.
    """
    if history is None:
        return
    ended = History(history.picture())  # the run says that it has ended only after all of it is kept
    ended(RunFinished(folder.run_id, time.time(), status=status))
    try:
        folder.put_text(DOCUMENT, orjson.dumps(ended.picture(), option=orjson.OPT_NON_STR_KEYS).decode())
    except (StoreError, OSError) as error:
        _logger.warning("what was seen of run %s is not kept: %s", folder.run_id, type(error).__name__)


def kept_picture(folder: RunFolder) -> Picture | None:
    """The kept picture; None where there is none, or another version has written it."""
    try:
        kept = folder.get_text(DOCUMENT)
    except (StoreError, OSError):
        return None
    try:
        return _adapter().validate_json(kept)
    except ValidationError:
        _logger.debug("%s of run %s is of another version", DOCUMENT, folder.run_id)
        return None


@cache
def _adapter() -> TypeAdapter[Picture]:
    """Made when a run is looked at, which most runs are not: it takes some ten milliseconds."""
    return TypeAdapter(Picture)
