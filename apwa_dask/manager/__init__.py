"""The manager: a question and descriptions of tables in, a checked plan out. It reads no data."""

from apwa_dask.manager.draft import Drafted, draft_async
from apwa_dask.manager.editing import edit_async
from apwa_dask.manager.revising import Seen, revise_async

__all__ = ["Drafted", "Seen", "draft_async", "edit_async", "revise_async"]
